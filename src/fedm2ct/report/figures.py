"""The figure of a site: truth, every method, and each method's signed difference to the truth."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fedm2ct.evaluation.metrics import body_mask, psnr, rmse_hu, ssim
from fedm2ct.report.style import CONVENTIONAL_METHODS, OWN_METHOD, label

Images = NDArray[np.floating]

DIFFERENCE_COLOURS = "RdBu_r"

_PANEL_IN = 2.3
_GAP_IN = 0.06
_HEAD_IN, _MIDDLE_IN, _FOOT_IN = 0.28, 0.26, 0.26
_DPI = 170
_TALL_IN = 8.0
_COLUMNS = 7
"""Panels beside one another; more methods go into further rows."""


@dataclass(frozen=True)
class DisplayWindow:
    """A named grey scale: HU at its centre and HU from black to white."""

    name: str
    centre_hu: float
    width_hu: float

    @property
    def limits_hu(self) -> tuple[float, float]:
        """HU shown black and HU shown white."""
        return self.centre_hu - self.width_hu / 2, self.centre_hu + self.width_hu / 2

    def __str__(self) -> str:
        return f"{self.name} window: centre {self.centre_hu:g} HU, width {self.width_hu:g} HU"


@dataclass(frozen=True)
class SiteImages:
    """One slice of a site's test images in HU.

    Attributes
    ----------
    truth
        Normal-dose image, shape ``(row, column)``.
    methods
        Reconstruction by method, in the order of drawing, each ``(row, column)``.
    pixel_mm
        Side of a pixel; without it there is no scale bar.
    """

    truth: Images
    methods: Mapping[str, Images]
    pixel_mm: float | None = None


def png_uri(figure: Figure) -> str:
    """Render a figure as a PNG in a ``data:`` address; a tall one is drawn with fewer dots."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    dpi = _DPI * min(1.0, max(0.6, _TALL_IN / figure.get_size_inches()[1]))
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _nice(value: float, steps: Sequence[float]) -> float:
    """Return the smallest of ``step * 10**n`` that is not below a positive `value`."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next((s * scale for s in steps if s * scale >= value * (1 - 1e-9)), 10 * scale)


def difference_limit_hu(sites: Sequence[SiteImages]) -> float:
    """Return the one limit in HU of all difference images of a report.

    It is the 95th percentile of the learned methods' absolute error in the body, rounded up;
    conventional ones, which may be far off, do not count unless they are alone. At least 20 HU.
    """
    errors = []
    for site in sites:
        body = body_mask(site.truth)
        if not body.any():
            body = np.ones_like(body)
        learned = [name for name in site.methods if name not in CONVENTIONAL_METHODS]
        learned = learned or list(site.methods)
        errors += [np.abs(site.methods[name] - site.truth)[body] for name in learned]
    if not errors:
        return 100.0
    joined = np.concatenate(errors)
    joined = joined[np.isfinite(joined)]
    percentile = float(np.percentile(joined, 95)) if joined.size else 100.0
    return _nice(max(percentile, 20.0), (1, 1.5, 2, 3, 4, 5, 6, 8, 10))


def crop_to_body(truth: Images, margin: float = 0.05) -> tuple[slice, slice]:
    """Return rows and columns about the body in ``truth`` with a margin, everything if none."""
    body = body_mask(truth)
    if not body.any():
        return slice(0, truth.shape[0]), slice(0, truth.shape[1])
    slices = []
    for axis in (1, 0):
        where = np.flatnonzero(body.any(axis=axis))
        pad = max(2, round(margin * max(truth.shape)))
        length = truth.shape[1 - axis]
        slices.append(slice(max(0, int(where[0]) - pad), min(length, int(where[-1]) + 1 + pad)))
    return slices[0], slices[1]


def _panel(figure: Figure, left: float, bottom: float, height: float) -> Axes:
    width, total = figure.get_size_inches()
    box = (left / width, bottom / total, _PANEL_IN / width, height / total)
    axes = figure.add_axes(box)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _scale_bar(axes: Axes, shape: tuple[int, int], pixel_mm: float) -> None:
    length_mm = _nice(shape[1] * pixel_mm / 8, (1, 2, 5, 10))
    length = length_mm / pixel_mm
    left, bottom = 0.04 * shape[1], 0.95 * shape[0]
    height = 0.012 * shape[0]
    axes.add_patch(Rectangle((left, bottom - height), length, height, color="white", ec="black"))
    axes.text(
        left + length / 2, bottom - 2 * height, f"{length_mm:g} mm", color="white",
        fontsize=8, ha="center", va="bottom",
    )  # fmt: skip


def _colour_bars(
    figure: Figure, window: DisplayWindow, limit: float, bottom: float, height: float
) -> None:
    """Fill the space below the truth with the two scales of the figure."""
    width, total = figure.get_size_inches()
    scales = (
        (0.80, "gray", window.limits_hu, "image, HU"),
        (0.28, DIFFERENCE_COLOURS, (-limit, limit), "difference to truth, HU"),
    )
    for share, colours, (low, high), title in scales:
        middle = bottom + height * share
        box = (0.18 / width, (middle - 0.06) / total, (_PANEL_IN - 0.5) / width, 0.13 / total)
        mappable = ScalarMappable(Normalize(low, high), colours)
        bar = figure.colorbar(
            mappable, cax=figure.add_axes(box), orientation="horizontal", extend="both",
            ticks=[low, (low + high) / 2, high],
        )  # fmt: skip
        bar.ax.tick_params(labelsize=8, length=2, pad=2)
        bar.ax.set_title(title, fontsize=8.5, pad=3)


def _scores(image: Images, truth: Images, data_range: tuple[float, float]) -> tuple[str, str]:
    if not np.isfinite(image).all():
        return "holds values that are not finite", ""
    x, t = image[None], truth[None]
    decibel = float(np.mean(psnr(x, t, data_range_hu=data_range)))
    similarity = float(np.mean(ssim(x, t, data_range_hu=data_range)))
    error = float(np.mean(rmse_hu(x, t, body_mask(t))))
    return f"PSNR {decibel:.1f} dB   SSIM {similarity:.3f}", f"RMSE {error:.0f} HU in the body"


def site_figure(
    site: SiteImages,
    window: DisplayWindow,
    limit_hu: float,
    data_range_hu: tuple[float, float],
) -> Figure:
    """Draw a site: images in one grey scale above, differences in one colour scale below.

    PSNR and SSIM of the slice shown stand below each image, its RMSE below the difference; they
    are taken over the whole slice, not over the crop that is shown. Where there are more methods
    than columns, images and differences go on below.
    """
    crop = crop_to_body(site.truth)
    rows, columns = site.truth[crop].shape
    height = _PANEL_IN * rows / columns
    block = 2 * height + _HEAD_IN + _MIDDLE_IN + _FOOT_IN
    across = min(1 + len(site.methods), _COLUMNS)
    blocks = math.ceil((1 + len(site.methods)) / _COLUMNS)
    size = (across * (_PANEL_IN + _GAP_IN) - _GAP_IN, blocks * block)
    figure = Figure(figsize=size, facecolor="white")
    top = (blocks - 1) * block
    axes = _panel(figure, 0.0, top + _FOOT_IN + height + _MIDDLE_IN, height)
    _show(axes, site.truth[crop], "gray", window.limits_hu)
    axes.set_title("Truth (normal dose)", fontsize=11, pad=4)
    if site.pixel_mm is not None:
        _scale_bar(axes, (rows, columns), site.pixel_mm)
    for k, (name, image) in enumerate(site.methods.items(), start=1):
        left = k % _COLUMNS * (_PANEL_IN + _GAP_IN)
        bottom = top - k // _COLUMNS * block + _FOOT_IN
        above, below = _scores(image, site.truth, data_range_hu)
        axes = _panel(figure, left, bottom + height + _MIDDLE_IN, height)
        _show(axes, image[crop], "gray", window.limits_hu, above)
        weight = "bold" if name == OWN_METHOD else "normal"
        axes.set_title(label(name), fontsize=11, pad=4, fontweight=weight)
        axes = _panel(figure, left, bottom, height)
        difference = (image - site.truth)[crop]
        _show(axes, difference, DIFFERENCE_COLOURS, (-limit_hu, limit_hu), below)
    _colour_bars(figure, window, limit_hu, top + _FOOT_IN, height)
    return figure


def _show(
    axes: Axes, image: Images, colours: str, limits: tuple[float, float], text: str = ""
) -> None:
    low, high = limits
    axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="bicubic")
    axes.set_xlabel(text, fontsize=9, labelpad=3)
