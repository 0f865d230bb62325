"""Draw the README's picture from a finished run: python benchmarks/figure.py RUN --site B."""

import argparse
import io
from pathlib import Path

import numpy as np

from fedm2ct.evaluation.metrics import FULL_RANGE_HU, WINDOWS
from fedm2ct.files import write_atomically
from fedm2ct.pipeline.manifest import config_of, read_manifest
from fedm2ct.pipeline.train import shown_arrays
from fedm2ct.report.figures import DisplayWindow, SiteImages, difference_limit_hu, site_figure
from fedm2ct.report.style import ordered


def main() -> None:
    """Parse the command line and draw the middle one of the slices that the run has kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--site", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    arguments = parser.parse_args()
    config, arrays = config_of(arguments.run), shown_arrays(config_of(arguments.run), arguments.run)
    truth = arrays[f"truth_hu/{arguments.site}"]
    middle = len(truth) // 2
    methods = {
        name: arrays[f"{name}/{arguments.site}"][middle].astype(np.float64)
        for name in ordered(config.methods)
    }
    protocol = read_manifest(arguments.run)["protocols"][arguments.site]
    images = SiteImages(truth[middle].astype(np.float64), methods, protocol["pixel_mm"])
    window = DisplayWindow(config.window, *WINDOWS[config.window])
    figure = site_figure(images, window, difference_limit_hu([images]), FULL_RANGE_HU)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    write_atomically(arguments.out, buffer.getvalue())


if __name__ == "__main__":
    main()
