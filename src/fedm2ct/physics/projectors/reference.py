"""The plain PyTorch backend: any device, memory bounded by working on a few views at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedm2ct.physics.geometry import Geometry, ImageGrid
from fedm2ct.physics.projectors.base import Backend, Footprint
from fedm2ct.physics.projectors.pixels import (
    CURVED_SHIFTED,
    FLAT,
    PARALLEL,
    pixel_table,
)
from fedm2ct.physics.projectors.rays import ray_table

_MAX_ELEMENTS = 1 << 24
"""Largest number of elements in an intermediate tensor."""


class TorchBackend(Backend):
    """Both footprints and the pixel-driven back-projector, by gather and scatter.

    On CUDA the scattering directions add with atomics: their last digits vary between runs,
    unless ``torch.use_deterministic_algorithms`` is on.
    """

    def __init__(self, geometry: Geometry, grid: ImageGrid) -> None:
        super().__init__(geometry, grid)
        self._rays = ray_table(geometry, grid)
        self._pixels = pixel_table(geometry, grid)

    def project(self, image: Tensor, footprint: Footprint = "joseph") -> Tensor:
        if footprint == "distance-driven":
            return self._project_footprints(image)
        out = image.new_zeros(len(image), self.geometry.n_views * self.geometry.n_bins)
        for by_row in (True, False):
            lines = pad(image if by_row else image.transpose(1, 2), (1, 1)).flatten(1)
            for rays, index, weight, length in self._samples(by_row, image):
                left, right = lines[:, index], lines[:, index + 1]
                mean = left + weight * (right - left)
                out[:, rays] = (mean * length).sum(-1)
        return out.reshape(len(image), *self.geometry.shape)

    def project_adjoint(self, sinogram: Tensor, footprint: Footprint = "joseph") -> Tensor:
        if footprint == "distance-driven":
            image = sinogram.new_zeros(len(sinogram), *self.grid.shape, requires_grad=True)
            with torch.enable_grad():
                projected = self._project_footprints(image)
            return torch.autograd.grad(projected, image, sinogram)[0]
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

    def backproject(self, sinogram: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            sinogram = sinogram * weights
        padded = pad(sinogram, (1, 1)).flatten(1)
        out = sinogram.new_zeros(len(sinogram), self.grid.rows * self.grid.columns)
        for index, frac, weight in self._footprints(sinogram):
            left = padded[:, index]
            value = left + frac * (padded[:, index + 1] - left)
            out += (value * weight).sum(1)
        return out.reshape(len(sinogram), *self.grid.shape)

    def backproject_adjoint(self, image: Tensor) -> Tensor:
        views, bins = self.geometry.shape
        flat = image.flatten(1)[:, None]
        out = image.new_zeros(len(image), views * (bins + 2))
        for index, frac, weight in self._footprints(image):
            values = flat * weight
            right = values * frac
            out.index_add_(1, index.flatten(), (values - right).flatten(1))
            out.index_add_(1, index.flatten() + 1, right.flatten(1))
        return out.reshape(-1, views, bins + 2)[:, :, 1:-1].contiguous()

    def _project_footprints(self, image: Tensor) -> Tensor:
        """Distance-driven: differences of each line's running sum, in double precision."""
        parts, order = [], []
        for by_row in (True, False):
            lines = (image if by_row else image.transpose(1, 2)).double()
            width = lines.shape[-1]
            sums = pad(lines.cumsum(-1), (1, 1))[:, :, : width + 1].flatten(1)
            for rays, low, high, length, row in self._edges(by_row, image):
                ends = []
                for at in (low, high):
                    inside = at.clamp(0, width)
                    index = inside.long().clamp(max=width - 1)
                    left = sums[:, index + row]
                    ends.append(left + (inside - index) * (sums[:, index + 1 + row] - left))
                parts.append(((ends[1] - ends[0]) / (high - low) * length).sum(-1))
                order.append(rays)
        inverse = torch.cat(order).argsort()
        flat = torch.cat(parts, 1)[:, inverse]
        return flat.reshape(len(image), *self.geometry.shape).to(image.dtype)

    def _edges(self, by_row: bool, like: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield rays (n), edges on every line (n, lines), length (n, 1) and lines' offsets."""
        table, device = self._rays, like.device
        count, width = self.grid.shape if by_row else self.grid.shape[::-1]
        mask = torch.from_numpy(table.by_row).flatten()
        line = torch.arange(count, device=device)
        size = max(1, _MAX_ELEMENTS // (count * max(1, len(like))))
        for rays in torch.split((mask if by_row else ~mask).nonzero().flatten(), size):
            low0, low1, high0, high1, length = (
                torch.from_numpy(column).flatten()[rays].to(device)[:, None]
                for column in (
                    table.low_first, table.low_slope, table.high_first, table.high_slope,
                    table.length_mm,
                )
            )  # fmt: skip
            # from centres at k + 1 to pixels that cover k to k + 1
            low, high = low0 + low1 * line - 0.5, high0 + high1 * line - 0.5
            yield rays.to(device), low, high, length, line * (width + 1)

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
        along = torch.from_numpy(p.along).to(device)[:, None]
        across = torch.from_numpy(p.across).to(device)[:, None]
        sid = p.detector_mm - p.behind_mm
        size = max(1, _MAX_ELEMENTS // (len(x) * max(1, len(like))))
        for views in torch.split(torch.arange(len(cos), device=device), size):
            c, s = cos[views], sin[views]
            source, aside = along[views], across[views]
            depth = source - x * c - y * s
            weight = torch.ones_like(depth)
            at_mm = y * c - x * s
            if p.kind == FLAT:
                weight = (source / depth).square()
                at_mm = aside + (at_mm - aside) / depth * (source + p.behind_mm)
            elif p.kind != PARALLEL:
                side = at_mm - aside
                weight = (source**2 + aside**2) / (depth.square() + side.square())
                at_mm = torch.atan2(side, depth)
            if p.kind == CURVED_SHIFTED:  # from the shifted source's angle to the nominal one's
                ahead = sid - source
                across_ray = ahead * at_mm.sin() - aside * at_mm.cos()
                at_mm = at_mm - (across_ray / p.detector_mm).asin()
            at = (p.first + at_mm * p.scale).clamp(0.0, p.bins + 1.0)
            index = at.long().clamp(max=p.bins)
            frac = (at - index).to(like.dtype)
            yield index + views[:, None] * (p.bins + 2), frac, weight.to(like.dtype)
