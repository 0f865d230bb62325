"""The tables ``[federation]`` and ``[privacy]``: what happens to uploads, whatever the method."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FederationConfig(_Model):
    """What every method's uploads go through, and how they are averaged (docs/privacy.md).

    `trim` is the share of the sites that ``trimmed-mean`` cuts off at each end.
    """

    compression: Literal["none", "fp16", "int8"] = "none"
    aggregation: Literal["mean", "median", "trimmed-mean"] = "mean"
    trim: float = Field(default=0.2, gt=0, lt=0.5)


class PrivacyConfig(_Model):
    """Clipping and Gaussian noise at the sites (docs/privacy.md).

    ``update_*`` concern a round's whole update, ``slice_*`` the gradient of each slice in each
    step; a noise is in units of its clipping length. `delta` is the accountant's. `reproducible`
    draws noise from the run's seed, which the server knows: for experiments only.
    """

    update_clip: float | None = Field(default=None, gt=0)
    update_noise: float = Field(default=0.0, ge=0)
    slice_clip: float | None = Field(default=None, gt=0)
    slice_noise: float = Field(default=0.0, ge=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    reproducible: bool = False

    @model_validator(mode="after")
    def _noise_needs_a_length(self) -> Self:
        for kind in ("update", "slice"):
            if getattr(self, f"{kind}_noise") and getattr(self, f"{kind}_clip") is None:
                raise ValueError(f"{kind}_noise is in units of {kind}_clip; set that as well")
        return self
