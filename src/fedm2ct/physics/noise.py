"""The dose model: photon counting and electronic noise on line integrals."""

import torch
from torch import Tensor


def add_dose_noise(
    line_integrals: Tensor,
    photons: float,
    electronic_noise: float,
    generator: torch.Generator,
    floor: float = 1.0,
) -> Tensor:
    r"""Measure line integrals with a finite dose.

    .. math:: N \sim \mathrm{Poisson}(I_0 e^{-p}) + \mathcal N(0, \sigma_e^2), \qquad
              \hat p = -\ln(\max(N, N_{floor}) / I_0)

    Parameters
    ----------
    line_integrals
        Noise-free line integrals ``p`` (dimensionless), any shape.
    photons
        Photons ``I_0`` per ray without an object.
    electronic_noise
        Standard deviation of the electronic noise in photon counts.
    generator
        The source of randomness, on the tensor's device.
    floor
        Counts below this are set to it before the logarithm; one photon by default.

    Returns
    -------
    Tensor
        Noisy line integrals, of the input's shape and dtype.

    Raises
    ------
    ValueError
        If the dose model's numbers are out of range or the line integrals are not finite.
    """
    if not photons > 0:
        raise ValueError(f"photons must be positive, got {photons}")
    if not electronic_noise >= 0:
        raise ValueError(f"electronic_noise must not be negative, got {electronic_noise}")
    if not 0 < floor <= photons:
        raise ValueError(f"floor must be in (0, photons], got {floor}")
    if not bool(torch.isfinite(line_integrals).all()):
        raise ValueError("line integrals must be finite")
    expected = photons * torch.exp(-line_integrals.double())
    counts = torch.poisson(expected, generator=generator)
    if electronic_noise > 0:
        noise = torch.empty_like(counts).normal_(generator=generator)
        counts = counts + electronic_noise * noise
    return -torch.log(counts.clamp(min=floor) / photons).to(line_integrals.dtype)


def inverse_variance(line_integrals: Tensor, photons: float, electronic_noise: float) -> Tensor:
    r"""Return one over the variance of measured line integrals, to first order in the noise.

    .. math:: 1 / \mathrm{var}(\hat p) = N^2 / (N + \sigma_e^2), \qquad N = I_0 e^{-p}

    Where only few photons arrive it is too small: the measurement's floor bounds the noise.

    Parameters
    ----------
    line_integrals
        Line integrals ``p`` (dimensionless), without noise or as measured, any shape.
    photons, electronic_noise
        As for `add_dose_noise`.

    Returns
    -------
    Tensor
        Dimensionless, of the input's shape and dtype.
    """
    expected = photons * torch.exp(-line_integrals)
    return expected.square() / (expected + electronic_noise**2)


def statistical_weights(sinogram: Tensor, photons: float, electronic_noise: float) -> Tensor:
    """Return each ray's weight by its noise, with a mean of 1 in each sinogram.

    Parameters
    ----------
    sinogram
        Measured line integrals (dimensionless), shape ``(..., views, bins)``.
    photons, electronic_noise
        As for `add_dose_noise`.
    """
    weights = inverse_variance(sinogram, photons, electronic_noise)
    return weights / weights.mean((-2, -1), keepdim=True)
