"""The table of results, as text."""

from typing import Any


def metric_table(summary: dict[str, Any]) -> str:
    """Return PSNR / SSIM / RMSE by method and site."""
    methods = summary["methods"]
    sites = list(next(iter(methods.values()))["sites"])
    reference = summary["reference"]
    low, high = reference["data_range_hu"]
    lines = [
        f"PSNR dB / SSIM over [{low:g}, {high:g}] HU, RMSE in HU inside the body",
        "".join(["method".ljust(10), *(name.rjust(22) for name in [*sites, "mean"])]),
    ]
    for method, scores in methods.items():
        cells = [*(scores["sites"][site] for site in sites), scores["mean"]]
        texts = [f"{c['psnr_db']:.2f} / {c['ssim']:.3f} / {c['rmse_hu']:.0f}" for c in cells]
        lines.append("".join([method.ljust(10), *(text.rjust(22) for text in texts)]))
    return "\n".join(lines)
