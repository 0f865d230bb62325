"""A small made-up run: two sites, five methods, ellipses for patients."""

from pathlib import Path

import numpy as np
import pytest

METHODS = ("fbp", "local", "fedavg", "pooled", "fedm2ct")
SITES = ("North <b>&", "South")
ERRORS_HU = dict(zip(METHODS, (120.0, 40.0, 60.0, 20.0, 30.0), strict=True))


def ellipse_patient(size=48):
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = np.full((size, size), -1000.0)
    image[(x / 0.8) ** 2 + (y / 0.55) ** 2 < 1] = 40.0
    image[(x / 0.2) ** 2 + ((y - 0.2) / 0.2) ** 2 < 1] = 600.0
    return np.stack([image, image[::-1], image[:, ::-1]]).astype(np.float32)


def made_up_run():
    """Return the keyword arguments of `write_report`, without the path."""
    rng = np.random.default_rng(5)
    truth = ellipse_patient()
    arrays = {f"truth_hu/{site}": truth for site in SITES}
    methods = {}
    for m, name in enumerate(METHODS):
        error = ERRORS_HU[name]
        for site in SITES:
            arrays[f"{name}/{site}"] = truth + error * rng.standard_normal(truth.shape)
        scores = {"psnr_db": 30.0 + m, "ssim": 0.8 + m / 100, "rmse_hu": error, "n_slices": 3}
        mean = {**scores, "psnr_db_interval": [29.5 + m, 30.5 + m]}
        methods[name] = {"sites": {site: dict(scores) for site in SITES}, "mean": mean}
    protocol = {
        "name": "x", "beam": "fan", "detector": "curved", "views": 40, "bins": 64,
        "pitch_mm": 2.5, "size": 48, "pixel_mm": 7.5, "photons": 5e4, "electronic_noise": 8.0,
    }  # fmt: skip
    history = [
        {
            "method": name, "seed": seed, "round": r, "site": site, "val_psnr_db": 25 + r + seed,
            "loss": 0.1, "bytes_up": 1_000_000, "bytes_down": 500_000, "seconds": 1.5,
        }
        for name in METHODS[1:] for seed in (0, 1) for r in (1, 2, 3) for site in SITES
    ]  # fmt: skip
    history += [{"method": "fedm2ct", "round": 1, "site": "server", "bytes_up": 9, "alpha": 0.3}]
    return {
        "run_dir": Path("somewhere/secret-folder/demo-run"),
        "summary": {
            "methods": methods,
            "reference": {"data_range_hu": [-1024, 3071], "window": "chest"},
            "seed": 0,
            "config": {
                "sites": [{"name": s, "scans": [f"/secret-folder/scan-{s[0]}.nii"]} for s in SITES],
                "test": {"scans": ["tester"]},
            },
            "versions": {"torch": "2.13.0"},
        },
        "manifest": {"protocols": dict.fromkeys(SITES, protocol), "seeds": [0, 1]},
        "history": history,
        "arrays": arrays,
    }


@pytest.fixture
def run():
    return made_up_run()
