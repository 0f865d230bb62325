"""The settings files of a coordinator and of a site, and the invitation between them."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedm2ct.config import SiteConfig
from fedm2ct.errors import FedM2CTError

Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$", max_length=253)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=BaseModel)


class CoordinatorSettings(_Settings):
    """``coordinator.toml``.

    Attributes
    ----------
    host, port
        Where sites reach the coordinator, as they name it.
    listen
        Address that the proxy binds; all of them by default.
    superlink_port
        Port of Flower's server on the loopback interface.
    proxy
        Whether ``up`` starts nginx; false where a proxy of the house does the same work.
    wait_for_sites_s
        How long a run waits for sites that are not connected, in seconds.
    round_timeout_s
        Longest wait for a round's replies, in seconds. A site that has just gone is waited for no
        longer than that, and 90 s at most.
    minimum_sites
        Fewest connected sites to begin a run with.
    """

    host: Host
    port: Port = 8443
    listen: Host = "0.0.0.0"
    superlink_port: Port = 9091
    proxy: bool = True
    wait_for_sites_s: float = Field(default=600.0, ge=0)
    round_timeout_s: float = Field(default=3600.0, gt=0)
    minimum_sites: int = Field(default=1, ge=1)


class PublicScans(_Settings):
    """Copies of the coordinator's public scans, in its order."""

    scans: list[str] = Field(min_length=1)


class LeastNoise(_Settings):
    """The least noise that a site takes part with, in units of the clipping lengths."""

    minimum_update_noise: float = Field(default=0.0, ge=0)
    minimum_slice_noise: float = Field(default=0.0, ge=0)


class SiteSettings(SiteConfig):
    """``site.toml``: the site's name, protocol and scans, which stay here.

    Attributes
    ----------
    public
        Copies of the coordinator's public scans, if it has given some: the site validates on them.
    privacy
        The least noise that the site takes part with; none by default.
    supernode_port
        Port of Flower's node on the loopback interface.
    threads
        Threads for arithmetic; 0 leaves it to the libraries.
    message_timeout_s
        Longest wait for a message that has begun to arrive, in seconds. After a coordinator's crash
        the rest of one never comes.
    """

    public: PublicScans | None = None
    privacy: LeastNoise = LeastNoise()
    supernode_port: Port = 9094
    threads: int = Field(default=0, ge=0)
    message_timeout_s: float = Field(default=300.0, gt=0)


class Invitation(_Settings):
    """``invitation.toml``: what a site needs to reach the coordinator; nothing in it is secret."""

    coordinator: str = Field(pattern=r"^[A-Za-z0-9.:\[\]-]+:\d+$")
    authority: str


def read_settings(path: Path, model: type[Settings], remedy: str) -> Settings:
    """Read and check a TOML file of settings.

    Raises
    ------
    FedM2CTError
        Naming the file, the first wrong field and the remedy.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FedM2CTError(f"{path}: is missing; run {remedy} first") from None
    except OSError as error:
        raise FedM2CTError(
            f"{path}: cannot be read ({error.strerror}); check whose it is and who may read it"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedM2CTError(f"{path}: is not valid TOML ({error})") from None
    return checked(model, data, str(path))


def checked(model: type[Settings], data: dict[str, Any], path: str = "settings") -> Settings:
    """Check settings.

    Raises
    ------
    FedM2CTError
        Naming the first wrong field.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise FedM2CTError(f"{path}: field {field!r}: {first['msg']}") from None
