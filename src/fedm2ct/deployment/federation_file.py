"""The coordinator's description of a federation: names and protocols of sites, and no scans.

It is a configuration as ``fedm2ct train`` takes it without what stays elsewhere: sites have a name
and a protocol, and there is no ``[test]``. What is sent to the sites is less still: not the
coordinator's public scans, and of the other sites nothing.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from fedm2ct.config import ConfigError, RunConfig, SiteConfig, parse_config
from fedm2ct.physics.protocol_files import protocol_text
from fedm2ct.physics.protocols import Protocol
from fedm2ct.pipeline.conventional import CONVENTIONAL

ELSEWHERE = "at-the-site"
"""Stands for scans that are not here; nobody reads it."""

NOT_DEPLOYED = {
    **dict.fromkeys(CONVENTIONAL, "it is not trained; sites have it without a federation"),
    "pooled": "it brings the sites' scans into one place",
    "pooled_plain": "it brings the sites' scans into one place",
    "fednova": "its sites must know how many slices the others have",
    "scanphysfed": "its sites must know the others' protocols",
}
"""Methods that cannot run over a deployment, and why."""


def load_federation(path: Path) -> RunConfig:
    """Read and check a coordinator's file.

    Raises
    ------
    ConfigError
        Naming the file, the first wrong field and the remedy.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML ({error})") from None
    sites = data.get("sites", [])
    if not isinstance(sites, list) or not all(isinstance(site, dict) for site in sites):
        raise ConfigError(
            f"{path}: field 'sites' must be a list of tables; begin each site with [[sites]]"
        )
    for site in sites:
        for field in ("scans", "slices", "validation_fraction"):
            if field in site:
                raise ConfigError(
                    f"{path}: field 'sites.{field}' belongs into the site's own site.toml; "
                    "remove it here"
                )
        site["scans"] = [ELSEWHERE]
    if "test" in data:
        raise ConfigError(f"{path}: field 'test': a coordinator has no test patients; remove it")
    data["test"] = {"scans": [ELSEWHERE]}
    config = parse_config(data, str(path))
    _refuse_what_needs_scans(config, path)
    _refuse_known_noise(config, str(path))
    return config


def _refuse_what_needs_scans(config: RunConfig, path: Path) -> None:
    for method in config.methods:
        if method in NOT_DEPLOYED:
            reason = NOT_DEPLOYED[method]
            raise ConfigError(
                f"{path}: field 'methods': {method!r} cannot run over a deployment ({reason})"
            )
    if config.meta.source == "contributed":
        raise ConfigError(
            f"{path}: field 'meta.source': contributed pairs would carry patient images from the "
            "sites to the coordinator; use simulated or none"
        )


def _refuse_known_noise(config: RunConfig, where: str) -> None:
    if config.privacy.reproducible:
        raise ConfigError(
            f"{where}: field 'privacy.reproducible': over a deployment the coordinator could take "
            "the sites' noise off again, as it knows the seed; remove it"
        )


def protocol_hash(protocol: Protocol) -> str:
    """Return a hash of a protocol: coordinator and site must mean the same one."""
    return hashlib.sha256(protocol_text(protocol).encode()).hexdigest()


def config_for_sites(config: RunConfig) -> dict[str, Any]:
    """Return what sites are told of the configuration: nothing of scans, nothing of sites."""
    told = config.model_dump(mode="json", exclude={"sites", "test"})
    told["meta"] = {**told["meta"], "source": "none", "scans": []}
    return told


def config_at_site(told: dict[str, Any], own: SiteConfig) -> RunConfig:
    """Return the configuration that a site works with: what it was told, and its own part.

    Raises
    ------
    ConfigError
        If what it was told is not a configuration of this version, or its noise would be known.
    """
    site = own.model_dump(mode="json", include=set(SiteConfig.model_fields))
    whole = {**told, "sites": [site], "test": {"scans": [ELSEWHERE]}}
    where = "the coordinator's configuration"
    config = parse_config(whole, where)
    _refuse_known_noise(config, where)
    return config
