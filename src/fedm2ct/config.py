"""The configuration of a run: frozen models, read from TOML, with an error for each field."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fedm2ct.config_protection import FederationConfig, PrivacyConfig
from fedm2ct.errors import FedM2CTError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=40)]
TAKEN_NAMES = ("meta", "pool", "server", "test", "validation")
"""What else than a site has such a place in a run: roles, the server, and the pooled member."""
ImageNetworkName = Annotated[str, Field(min_length=1)]


class ConfigError(FedM2CTError):
    """A configuration file that cannot be used."""


class _Model(BaseModel):
    """A frozen table.

    `neutral` names fields that came later and whose default means what was done before there was
    such a field: a fingerprint leaves them out at their default, so that older runs still count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    neutral: ClassVar[frozenset[str]] = frozenset()


class ScansConfig(_Model):
    """Which scans, and how many slices of each (evenly spaced over those that show a body)."""

    scans: list[str] = Field(min_length=1)
    slices: int = Field(default=24, ge=1)


class SiteConfig(ScansConfig):
    """One site: its name, its protocol (a preset's name or a table) and its patients' scans.

    A site whose `supervision` is ``none`` has low-dose projections only: no normal-dose image of
    its patients may be used for training.
    """

    neutral: ClassVar[frozenset[str]] = frozenset({"supervision"})
    name: Name
    protocol: str | dict[str, Any]
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    supervision: Literal["paired", "none"] = "paired"

    @field_validator("name")
    @classmethod
    def _is_no_role(cls, name: str) -> str:
        if name in TAKEN_NAMES:
            raise ValueError(
                f"{name!r} is no name for a site, for a run calls something else so; choose "
                f"another one (not {', '.join(TAKEN_NAMES)})"
            )
        return name


class MetaConfig(ScansConfig):
    """The server's meta-set of paired images.

    ``simulated``: `scans` are public normal-dose scans, on which the server simulates every
    site's acquisition. ``contributed``: the sites give `slices` of their own pairs, of them the
    part `held_out` of those they do not train on, and `scans` is not used. ``none``: there is no
    metamodel.
    """

    source: Literal["simulated", "contributed", "none"] = "simulated"
    scans: list[str] = []
    held_out: float = Field(default=0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _needs_scans(self) -> Self:
        if self.source == "simulated" and not self.scans:
            raise ValueError("a simulated meta-set needs the names of public scans in 'scans'")
        return self


class ModelConfig(_Model):
    """The image networks, the same for every method, and the image that they correct.

    `start` is FBP (whose sinogram part methods may learn), or an iterative reconstruction. Beside
    that one networks see FBP; with `private_sees_fbp` false the private network does not. Methods
    without a private network of an architecture of their own read neither that field nor `private`.
    """

    neutral: ClassVar[frozenset[str]] = frozenset({"start", "private_sees_fbp"})

    private: ImageNetworkName = "unet"
    shared: ImageNetworkName = "unet"
    width: int = Field(default=16, ge=1, le=256)
    start: Literal["fbp", "sirt", "tv", "scaled-tv"] = "fbp"
    private_sees_fbp: bool = True
    learn_projection: bool = True
    consistency: bool = False


class TrainingConfig(_Model):
    """The optimiser's schedule, the same for every method.

    With `precision` ``bfloat16`` the networks' convolutions are computed in it while training;
    parameters, operators and all reconstruction stay float32. What methods simulate beside the
    sites' own measurements (the server's meta-set, other sites' protocols) is simulated anew, with
    new noise, every `simulate_every` rounds: with an iterative start that is most of their work.
    """

    neutral: ClassVar[frozenset[str]] = frozenset({"precision", "simulate_every"})

    rounds: int = Field(default=12, ge=1)
    local_steps: int = Field(default=60, ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    projection_learning_rate: float = Field(default=3e-4, ge=0)
    final_rate: float = Field(default=0.02, gt=0, le=1)
    loss: Literal["l2", "charbonnier"] = "charbonnier"
    precision: Literal["float32", "bfloat16"] = "float32"
    simulate_every: int = Field(default=1, ge=1)

    def simulated_in(self, round_index: int) -> int:
        """Return the round, of those up to this one, in which its acquisitions are simulated."""
        return round_index - (round_index - 1) % self.simulate_every


class FedM2CTConfig(_Model):
    """What is FedM2CT's own; each switch has an ablation row.

    `cross_protocol` weighs the shared network's loss on a site's own normal-dose images as the
    other sites' scanners would acquire them; 0 leaves it out, and sites then learn nothing of each
    other's protocols. With `public_training` a site also trains on the public slices that the
    server trains its metamodel on, acquired under its own protocol.
    """

    neutral: ClassVar[frozenset[str]] = frozenset({"cross_protocol", "public_training"})

    coupling: Literal["side-by-side", "cascaded"] = "cascaded"
    cascade_from: Literal["shared", "initial"] = "initial"
    shared_input: Literal["fbp", "learned"] = "fbp"
    prompted: bool = True
    lambda_private: float = Field(default=0.0, ge=0)
    lambda_shared: float = Field(default=0.3, ge=0)
    ramp_rounds: int = Field(default=4, ge=0)
    meta_steps: int = Field(default=60, ge=0)
    alpha: float | None = Field(default=None, ge=0, le=1)
    public_validation: bool = True
    public_training: bool = False
    exchange: bool = True
    cross_protocol: float = Field(default=0.0, ge=0)


class HybridConfig(_Model):
    """How a site with ``supervision = "none"`` learns: the terms of its loss, and their weights.

    The terms are those of `fedm2ct.learning.self_supervised`; with none of them it does not train,
    and `public` is left out where the server has no public scans.
    """

    loss: list[
        Literal[
            "noise2inverse",
            "split-views",
            "thinning",
            "consistency",
            "equivariance",
            "teacher",
            "public",
        ]
    ] = ["public", "teacher"]
    teacher: float = Field(default=1.0, ge=0)
    equivariance: float = Field(default=1.0, ge=0)


class EvaluationConfig(_Model):
    """What is scored beside the usual; perceptual metrics fetch published weights (64 MB, once)."""

    perceptual: bool = False


class FedProxConfig(_Model):
    """FedProx: weight of the proximal term; the paper tunes it over 0.001 to 1."""

    mu: float = Field(default=0.01, ge=0)


class ScaffoldConfig(_Model):
    """SCAFFOLD: the server's step; 1 in the paper's experiments."""

    global_rate: float = Field(default=1.0, gt=0)


class FedDynConfig(_Model):
    """FedDyn: weight of the dynamic regularisation; the paper's CIFAR experiments use 0.01."""

    alpha: float = Field(default=0.01, gt=0)


class MoonConfig(_Model):
    """MOON: weight of the contrast (the paper's best are 0.5 to 10 by data set) and temperature."""

    mu: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.5, gt=0)


class FedRepConfig(_Model):
    """FedRep: the head's share of a round's steps; the paper has 10 epochs of it to 1."""

    head_share: float = Field(default=0.91, gt=0, lt=1)


class DittoConfig(_Model):
    """Ditto: how strongly the personal model is held; the paper's sites pick from 0.1, 1 and 2."""

    lambda_personal: float = Field(default=1.0, ge=0)


class FinetunedConfig(_Model):
    """FedAvg and fine-tuning: the share of the rounds in which each site goes on alone."""

    share: float = Field(default=0.25, gt=0, le=1)


class FMLConfig(_Model):
    """FML: how much the truth counts for the local model and for the meme; the rest is the peer."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    beta: float = Field(default=0.5, ge=0, le=1)


class FedMRIConfig(_Model):
    """FedMRI: weight of the contrastive regularisation; the default is ours."""

    mu: float = Field(default=0.1, ge=0)


class ScanPhysFedConfig(_Model):
    """SCAN-PhysFed: weight of the term that keeps protocols' codes apart, as in its code."""

    weight: float = Field(default=1e-4, ge=0)


class MethodConfig(_Model):
    """What is each rival's own, a table a method: ``[method.fedprox]``."""

    fedprox: FedProxConfig = FedProxConfig()
    scaffold: ScaffoldConfig = ScaffoldConfig()
    feddyn: FedDynConfig = FedDynConfig()
    moon: MoonConfig = MoonConfig()
    fedrep: FedRepConfig = FedRepConfig()
    ditto: DittoConfig = DittoConfig()
    finetuned: FinetunedConfig = FinetunedConfig()
    fml: FMLConfig = FMLConfig()
    fedmri: FedMRIConfig = FedMRIConfig()
    scanphysfed: ScanPhysFedConfig = ScanPhysFedConfig()


class RunConfig(_Model):
    """A whole run: sites, test patients, meta-set, networks, schedule, methods and seeds."""

    neutral: ClassVar[frozenset[str]] = frozenset({"federation", "privacy", "hybrid"})
    name: Name
    methods: list[Name] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    image_size: int = Field(default=128, ge=16, le=1024)
    sites: list[SiteConfig] = Field(min_length=1)
    test: ScansConfig
    meta: MetaConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    fedm2ct: FedM2CTConfig = FedM2CTConfig()
    method: MethodConfig = MethodConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    window: Literal["chest", "abdomen", "head"] = "abdomen"
    hybrid: HybridConfig = HybridConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for what, items in (
            ("site names", [site.name for site in self.sites]),
            ("methods", list(self.methods)),
            ("seeds", list(self.seeds)),
        ):
            if len(set(items)) != len(items):
                raise ValueError(f"{what} must differ from one another")
        return self

    @model_validator(mode="after")
    def _noise_hides_nothing_that_is_given_away(self) -> Self:
        noise = self.privacy.update_noise or self.privacy.slice_noise
        if noise and self.meta.source == "contributed":
            raise ValueError(
                "[privacy] adds noise to what sites send, but meta.source = 'contributed' hands "
                "their slices to the server; choose 'simulated' or 'none'"
            )
        return self


def _known_fields(location: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields beside the one at `location`."""
    model: Any = RunConfig
    for step in location[:-1]:
        if isinstance(step, int):
            continue
        annotation = model.model_fields[step].annotation
        model = getattr(annotation, "__args__", (annotation,))[0]
    return list(model.model_fields)


def _sentence(path: str, error: ValidationError) -> str:
    first = error.errors()[0]
    location = first["loc"]
    field = ".".join(map(str, location)) or "the file"
    if first["type"] == "extra_forbidden":
        known = _known_fields(location)
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"{path}: field {field!r} is not known; {remedy}"
    if first["type"] == "missing":
        return f"{path}: field {field!r} is missing; add it"
    if first["type"] == "value_error":  # a sentence of our own
        where = f"field {field!r}: " if location else ""
        return f"{path}: {where}{first['ctx']['error']}"
    return f"{path}: field {field!r}: {first['msg']} (got {first['input']!r:.80})"


def parse_config(data: dict[str, Any], path: str = "configuration") -> RunConfig:
    """Check a configuration.

    Raises
    ------
    ConfigError
        Naming the file, the first wrong field and the remedy.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(path, error)) from None


def load_config(path: Path) -> RunConfig:
    """Read and check a TOML configuration.

    Raises
    ------
    ConfigError
        When the file is missing, is not TOML, or has a wrong or unknown field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be read ({reason}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML ({error})") from None
    return parse_config(data, str(path))
