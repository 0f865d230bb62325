"""A setting of the benchmark, as scripts take it that choose ideas on its validation patients."""

import argparse
from pathlib import Path

from fedm2ct.cli.options import loaded_setting
from fedm2ct.pipeline.settings import SIZES, Setting


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how large the setting is, and which scans it has."""
    parser.add_argument("--size", choices=SIZES, default="small", help="the setting's size")
    parser.add_argument("--scans", type=Path, help="folder of more patients, as for the benchmark")
    parser.add_argument("--validation-patients", type=int, help="likewise")
    parser.add_argument("--test-patients", type=int, help="likewise")


def setting_of(name: str, options: argparse.Namespace) -> Setting:
    """Return a setting with what `add_setting_options` reads."""
    return loaded_setting(name, options.size, {**vars(options), "phantoms": False})
