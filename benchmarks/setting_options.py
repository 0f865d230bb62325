"""A setting of the benchmark on its validation patients, as scripts that choose ideas take it."""

import argparse
from pathlib import Path

from fedm2ct.cli.options import loaded_setting
from fedm2ct.config import RunConfig
from fedm2ct.pipeline.settings import SIZES
from fedm2ct.pipeline.tuning import validation_config


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how large the setting is, and which scans it has."""
    parser.add_argument("--size", choices=SIZES, default="small", help="the setting's size")
    parser.add_argument("--scans", type=Path, help="folder of more patients, as for the benchmark")
    parser.add_argument("--validation-patients", type=int, help="likewise")
    parser.add_argument("--test-patients", type=int, help="likewise")


def on_validation_patients(
    setting: str, options: argparse.Namespace, rounds: int | None = None
) -> RunConfig:
    """Return a setting's configuration, tested on its validation patients.

    Parameters
    ----------
    setting
        Its name.
    options
        What `add_setting_options` reads.
    rounds
        Rounds, if not the size's.
    """
    scans = {**vars(options), "phantoms": False}
    return validation_config(loaded_setting(setting, options.size, scans), rounds)
