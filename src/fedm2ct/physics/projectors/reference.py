"""The plain PyTorch backend: any device, memory bounded by working on a few views at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import Backend
from fedm2ct.physics.projectors.pixels import CURVED, FLAT, pixel_table
from fedm2ct.physics.projectors.rays import ray_table

_MAX_ELEMENTS = 1 << 24
"""Largest number of elements in an intermediate tensor."""


class TorchBackend(Backend):
    """Joseph and pixel-driven operators by gather and scatter.

    On CUDA the scattering directions add with atomics: their last digits vary between runs,
    unless ``torch.use_deterministic_algorithms`` is on.
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__(geometry, grid)
        self._rays = ray_table(geometry, grid)
        self._pixels = pixel_table(geometry, grid)

    def project(self, image: Tensor) -> Tensor:  # noqa: D102
        out = image.new_zeros(len(image), self.geometry.n_views * self.geometry.n_bins)
        for by_row in (True, False):
            lines = pad(image if by_row else image.transpose(1, 2), (1, 1)).flatten(1)
            for rays, index, weight, length in self._samples(by_row, image):
                left, right = lines[:, index], lines[:, index + 1]
                mean = left + weight * (right - left)
                out[:, rays] = (mean * length).sum(-1)
        return out.reshape(len(image), *self.geometry.shape)

    def project_adjoint(self, sinogram: Tensor) -> Tensor:  # noqa: D102
        flat = sinogram.flatten(1)
        total = sinogram.new_zeros(len(sinogram), *self.grid.shape)
        for by_row in (True, False):
            rows, columns = self.grid.shape if by_row else self.grid.shape[::-1]
            lines = sinogram.new_zeros(len(sinogram), rows * (columns + 2))
            for rays, index, weight, length in self._samples(by_row, sinogram):
                values = flat[:, rays, None] * length
                right = values * weight
                lines.index_add_(1, index.flatten(), (values - right).flatten(1))
                lines.index_add_(1, index.flatten() + 1, right.flatten(1))
            part = lines.reshape(-1, rows, columns + 2)[:, :, 1:-1]
            total += part if by_row else part.transpose(1, 2)
        return total

    def backproject(self, sinogram: Tensor) -> Tensor:  # noqa: D102
        padded = pad(sinogram, (1, 1)).flatten(1)
        out = sinogram.new_zeros(len(sinogram), self.grid.rows * self.grid.columns)
        for index, frac, weight in self._footprints(sinogram):
            left = padded[:, index]
            value = left + frac * (padded[:, index + 1] - left)
            out += (value * weight).sum(1)
        return out.reshape(len(sinogram), *self.grid.shape)

    def backproject_adjoint(self, image: Tensor) -> Tensor:  # noqa: D102
        views, bins = self.geometry.shape
        flat = image.flatten(1)[:, None]
        out = image.new_zeros(len(image), views * (bins + 2))
        for index, frac, weight in self._footprints(image):
            values = flat * weight
            right = values * frac
            out.index_add_(1, index.flatten(), (values - right).flatten(1))
            out.index_add_(1, index.flatten() + 1, right.flatten(1))
        return out.reshape(-1, views, bins + 2)[:, :, 1:-1].contiguous()

    def _samples(self, by_row: bool, like: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield rays (n), and index, weight, length (n, lines) of their samples, in chunks."""
        table, device = self._rays, like.device
        count, width = self.grid.shape if by_row else self.grid.shape[::-1]
        mask = torch.from_numpy(table.by_row).flatten()
        every = (mask if by_row else ~mask).nonzero().flatten()
        line = torch.arange(count, device=device)
        size = max(1, _MAX_ELEMENTS // (count * max(1, len(like))))
        for rays in torch.split(every, size):
            first, slope, length, start, stop = (
                torch.from_numpy(column).flatten()[rays].to(device)[:, None]
                for column in (table.first, table.slope, table.length_mm, table.start, table.stop)
            )
            inside = (line >= start) & (line < stop)
            at = torch.where(inside, first + slope * line, 0.0)
            index = at.long().clamp(0, width)
            weight = (at - index).to(like.dtype)
            yield (
                rays.to(device),
                index + line * (width + 2),
                weight,
                (length * inside).to(like.dtype),
            )

    def _footprints(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield index into the padded sinogram, fraction and weight, (views, pixels) each."""
        p, device = self._pixels, like.device
        x = torch.from_numpy(p.x).to(device).repeat(self.grid.rows)
        y = torch.from_numpy(p.y).to(device).repeat_interleave(self.grid.columns)
        cos = torch.from_numpy(p.cos).to(device)[:, None]
        sin = torch.from_numpy(p.sin).to(device)[:, None]
        size = max(1, _MAX_ELEMENTS // (len(x) * max(1, len(like))))
        for views in torch.split(torch.arange(len(cos), device=device), size):
            c, s = cos[views], sin[views]
            across = y * c - x * s
            along = p.source_mm - x * c - y * s
            weight = torch.ones_like(across)
            if p.kind == FLAT:
                weight = (p.source_mm / along).square()
                across = across / along
            elif p.kind == CURVED:
                weight = p.source_mm**2 / (along.square() + across.square())
                across = torch.atan2(across, along)
            at = (p.first + across * p.scale).clamp(0.0, p.bins + 1.0)
            index = at.long().clamp(max=p.bins)
            frac = (at - index).to(like.dtype)
            yield index + views[:, None] * (p.bins + 2), frac, weight.to(like.dtype)
