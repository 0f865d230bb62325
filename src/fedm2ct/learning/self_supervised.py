r"""Losses of a site that has low-dose projections and no normal-dose image.

A term is a function of the model, a batch of what was measured, and a source of randomness. What
it trains is the site's private part; ``x = f(p)`` is the private network's image, ``z`` the shared
one's, ``A`` the projector, ``m`` the misfit of `fedm2ct.learning.misfit`.

=================  ================================================================================
``noise2inverse``  ``| f(p without views J) - FBP(p_J) |^2``: Noise2Inverse with the target of
                   its X:1 strategy, Hendriksen et al. 2020, doi 10.1109/TCI.2020.3019647
``split-views``    ``m(f(p without views J); p_J)``: the views held out are predicted, which asks
                   for what lies between views, too (as SSDU in MRI, doi 10.1002/mrm.28378)
``thinning``       ``m(f(p'); p'')``: p' and p'' are a thinned measurement's parts
``consistency``    ``m(f(p); p)``
``equivariance``   ``| f(A T f(p) + noise) - T f(p) |^2`` with a random rotation T: Equivariant
                   Imaging, Chen et al. 2021, arXiv 2103.14756; noise as in arXiv 2111.12855
``teacher``        ``c d(x, sg z)``, c = 1 / max(1, m(z; p)): one-way mutual learning, the shared
                   network's word weighted by how well it explains this measurement
``public``         ``d(f(p), y)`` on public pairs, simulated under the site's protocol
=================  ================================================================================

All but the two last are unbiased for independent noise: the part that is compared with has noise
that the network has not seen (``consistency`` excepted, which fits the noise, and wants company).
Ours: views held out are replaced by the mean of their neighbours, so that the model keeps its
geometry; the form of c; the sums of these terms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedm2ct.config import HybridConfig
from fedm2ct.learning.losses import Distance, l2
from fedm2ct.learning.misfit import (
    Misfit,
    counts_of,
    hold_out_views,
    subset_of_views,
    thin_counts,
)
from fedm2ct.learning.slices import Slices
from fedm2ct.model.ts_iradonmap import Reconstruction, TSiRadonMAP
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.protocols import Protocol


@dataclass(frozen=True)
class Measured:
    """A batch of line integrals, and their FBP where the model needs it."""

    sinogram: Tensor
    analytical: Tensor | None


Term = Callable[[TSiRadonMAP, Measured, torch.Generator], Tensor]

FOLD_OF_IMAGES = 4
"""Noise2Inverse's K: an FBP of fewer views is too streaked to be learned from."""
FOLD_OF_VIEWS = 8
THINNED_SHARE = 0.8
"""Share of the dose that the network sees in thinning; the rest is what it must predict."""


def learned(result: Reconstruction) -> Tensor:
    """Return the image that a site without pairs trains.

    Raises
    ------
    ValueError
        When the model has no private network.
    """
    if result.private is None:
        raise ValueError("a site without pairs trains its private network, but there is none")
    return result.private


def noise2inverse(protocol: Protocol) -> Term:
    """Return the split-view loss between images."""
    parts = [subset_of_views(protocol.geometry, k, FOLD_OF_IMAGES) for k in range(FOLD_OF_IMAGES)]

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        first = int(torch.randint(FOLD_OF_IMAGES, (), generator=draw))
        held = batch.sinogram[:, :, first::FOLD_OF_IMAGES]
        target = fbp(held, parts[first], protocol.grid)
        seen = hold_out_views(batch.sinogram, first, FOLD_OF_IMAGES)
        return l2(learned(model(seen)), target)

    return term


def split_views(misfit: Misfit) -> Term:
    """Return the loss of predicting views that were held out."""

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        first = int(torch.randint(FOLD_OF_VIEWS, (), generator=draw))
        image = learned(model(hold_out_views(batch.sinogram, first, FOLD_OF_VIEWS)))
        counts = counts_of(batch.sinogram, misfit.protocol.photons)
        return misfit(image, counts, slice(first, None, FOLD_OF_VIEWS)).mean()

    return term


def thinning(misfit: Misfit) -> Term:
    """Return the loss of predicting the counts that were thinned out."""

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        seen, rest = thin_counts(batch.sinogram, misfit.protocol, THINNED_SHARE, draw)
        return misfit(learned(model(seen)), rest, share=1 - THINNED_SHARE).mean()

    return term


def consistency(misfit: Misfit) -> Term:
    """Return the misfit of the image from the measurement that it was made of."""

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        image = learned(model(batch.sinogram, batch.analytical))
        return misfit(image, counts_of(batch.sinogram, misfit.protocol.photons)).mean()

    return term


def equivariance(misfit: Misfit) -> Term:
    """Return how far the reconstruction of a rotated image's measurement is from that image."""
    protocol = misfit.protocol

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        image = learned(model(batch.sinogram, batch.analytical))
        angles = 2 * math.pi * torch.rand(len(image), generator=draw)
        turned = rotate(image, angles)
        clean = misfit.project(turned)
        noisy = add_dose_noise(
            clean.detach().cpu(), protocol.photons, protocol.electronic_noise, draw
        )
        again = learned(model(clean + (noisy.to(clean) - clean.detach())))
        return l2(again, turned)

    return term


def teacher(misfit: Misfit, distance: Distance) -> Term:
    """Return one-way mutual learning, each slice weighted by the teacher's consistency."""

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        result = model(batch.sinogram, batch.analytical)
        x = learned(result)
        if result.shared is None:
            return x.new_zeros(())
        z = result.shared.detach()
        trust = trust_in(z, batch.sinogram, misfit)
        return torch.stack([c * distance(a, b) for c, a, b in zip(trust, x, z, strict=True)]).mean()

    return term


@torch.no_grad()
def trust_in(image: Tensor, sinogram: Tensor, misfit: Misfit) -> Tensor:
    """Return 1 / max(1, misfit) of each image: 1 where noise explains all that it leaves open."""
    return 1 / misfit(image, counts_of(sinogram, misfit.protocol.photons)).clamp(min=1.0)


def public(pairs: Slices, distance: Distance, batch_size: int) -> Term:
    """Return the supervised loss on public pairs."""

    def term(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pairs), (batch_size,), generator=draw)
        sinogram, truth, analytical = pairs.batch(chosen)
        return distance(learned(model(sinogram, analytical)), truth)

    return term


def rotate(image: Tensor, angles: Tensor) -> Tensor:
    """Rotate images ``(batch, 1, row, column)`` about their centre, counter-clockwise, in radians.

    Linear interpolation; outside there is air.
    """
    rows, columns = image.shape[-2:]
    ratio = rows / columns
    cosine, sine = torch.cos(angles), torch.sin(angles)
    zero = torch.zeros_like(cosine)
    # From an output pixel back to where it came from; the vertical axis points down there.
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine * ratio, zero], dim=1),
            torch.stack([sine / ratio, cosine, zero], dim=1),
        ],
        dim=1,
    ).to(image)
    grid = functional.affine_grid(matrix, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, align_corners=False)


def make_terms(
    options: HybridConfig,
    protocol: Protocol,
    distance: Distance,
    pairs: Slices | None = None,
    batch_size: int = 1,
) -> dict[str, Term]:
    """Return the terms that the options name, by name; `public` only where there are pairs."""
    misfit = Misfit(protocol)
    known: dict[str, Callable[[], Term]] = {
        "noise2inverse": lambda: noise2inverse(protocol),
        "split-views": lambda: split_views(misfit),
        "thinning": lambda: thinning(misfit),
        "consistency": lambda: consistency(misfit),
        "equivariance": lambda: equivariance(misfit),
        "teacher": lambda: teacher(misfit, distance),
    }
    if pairs is not None:
        known["public"] = lambda: public(pairs, distance, batch_size)
    return {name: known[name]() for name in dict.fromkeys(options.loss) if name in known}


def weighted(terms: Sequence[tuple[float, Term]]) -> Term | None:
    """Return a weighted sum of terms; those of weight zero are not computed, None if all are."""
    counted = [(weight, term) for weight, term in terms if weight != 0]
    if not counted:
        return None

    def total(model: TSiRadonMAP, batch: Measured, draw: torch.Generator) -> Tensor:
        values = [weight * term(model, batch, draw) for weight, term in counted]
        return torch.stack(values).sum()

    return total
