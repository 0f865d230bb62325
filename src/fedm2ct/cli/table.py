"""The table of results, as text."""

from typing import Any

from fedm2ct.report.safety import spread

_WAYS = ("recovered", "direct")


def metric_table(summary: dict[str, Any]) -> str:
    """Return PSNR / SSIM / RMSE, and LPIPS where it is known, by method and site."""
    methods = summary["methods"]
    sites = list(next(iter(methods.values()))["sites"])
    reference = summary["reference"]
    low, high = reference["data_range_hu"]
    perceptual = all(scores["mean"].get("lpips") is not None for scores in methods.values())
    first, width = max(map(len, ["method", *methods])), 30 if perceptual else 22
    lines = [
        f"PSNR dB / SSIM over [{low:g}, {high:g}] HU, RMSE in HU inside the body"
        + (", LPIPS in the display window" if perceptual else ""),
        "".join(["method".ljust(first), *(name.rjust(width) for name in [*sites, "mean"])]),
    ]
    for method, scores in methods.items():
        cells = [*(scores["sites"][site] for site in sites), scores["mean"]]
        texts = [f"{c['psnr_db']:.2f} / {c['ssim']:.3f} / {c['rmse_hu']:.0f}" for c in cells]
        if perceptual:
            texts = [f"{text} / {c['lpips']:.3f}" for text, c in zip(texts, cells, strict=True)]
        lines.append("".join([method.ljust(first), *(text.rjust(width) for text in texts)]))
    return "\n".join(lines)


def lesion_table(result: dict[str, Any]) -> str:
    """Return the contrast that is left of planted lesions, by method and site."""
    methods, sites = result["methods"], list(result["sites"])
    width = max(map(len, ["method", *methods]))
    numbers = ", ".join(f"{s}: {len(result['sites'][s]['lesions'])}" for s in sites)
    lines = [
        "Contrast recovered of planted lesions in %, mean and standard deviation: by the "
        f"difference with and without them / directly. Lesions: {numbers}",
        "".join(["method".ljust(width), *(name.rjust(22) for name in [*sites, "mean"])]),
    ]
    for method, scores in methods.items():
        cells = [" / ".join(spread(scores["sites"][s][way]) for way in _WAYS) for s in sites]
        cells.append(" / ".join(f"{scores['mean'][way]:.0f}" for way in _WAYS))
        lines.append("".join([method.ljust(width), *(text.rjust(22) for text in cells)]))
    return "\n".join(lines)
