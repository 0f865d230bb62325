"""The table of results, as text."""

from typing import Any


def metric_table(summary: dict[str, Any]) -> str:
    """Return PSNR / SSIM / RMSE, and LPIPS where it is known, by method and site."""
    methods = summary["methods"]
    sites = list(next(iter(methods.values()))["sites"])
    reference = summary["reference"]
    low, high = reference["data_range_hu"]
    perceptual = all(scores["mean"].get("lpips") is not None for scores in methods.values())
    width = 30 if perceptual else 22
    lines = [
        f"PSNR dB / SSIM over [{low:g}, {high:g}] HU, RMSE in HU inside the body"
        + (", LPIPS in the display window" if perceptual else ""),
        "".join(["method".ljust(10), *(name.rjust(width) for name in [*sites, "mean"])]),
    ]
    for method, scores in methods.items():
        cells = [*(scores["sites"][site] for site in sites), scores["mean"]]
        texts = [f"{c['psnr_db']:.2f} / {c['ssim']:.3f} / {c['rmse_hu']:.0f}" for c in cells]
        if perceptual:
            texts = [f"{text} / {c['lpips']:.3f}" for text, c in zip(texts, cells, strict=True)]
        lines.append("".join([method.ljust(10), *(text.rjust(width) for text in texts)]))
    return "\n".join(lines)
