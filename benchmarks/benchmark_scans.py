"""Make the folder of scans that the published benchmarks were given as ``--scans``.

    python benchmarks/benchmark_scans.py --slices COVID.npz --volume A0001=FILE --volume \
        CRLM1004=FILE --out DIR

``COVID.npz`` holds twenty slices of ten patients of COVID-19-NY-SBU, two a patient, one after the
other: ``hu`` (slice, row, column), ``pixel_mm`` (slice) and ``name`` (slice; up to the first ``|``
it is the patient's). A patient becomes a scan of two slices, the second resampled bilinearly about
the image's centre to the first one's pixel. The volumes (Lung-PET-CT-Dx A0001, CRLM-CT-1004) hold
``hu`` and ``spacing_zyx_mm`` and stay as they are. Names are numbered so that, sorted, the first is
for validation, the next nine for the test and the volumes for the sites.

What is printed of each is how a record's ``patients`` calls it: equal names are equal scans.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from fedm2ct.data.scans import read_scan
from fedm2ct.errors import FedM2CTError

AIR_HU = -1024
SLICES_APART_MM = 50.0
"""Between a patient's two slices, which are of different days: far, so that nothing is thick."""
FIRST_TEST, FIRST_VOLUME = 11, 90

Image = NDArray[np.int16]


def resampled(image: Image, pixel_mm: np.float32, to_mm: np.float32) -> Image:
    """Resample a square image about its centre to another pixel, bilinearly; air beyond it."""
    factor = to_mm / pixel_mm
    centre = (len(image) - 1) / 2
    offset = centre - factor * centre
    values = affine_transform(
        image.astype(np.float32), [factor, factor], offset=offset, order=1, cval=AIR_HU
    )
    return np.rint(values).astype(np.int16)


def patients(file: Path) -> Iterator[tuple[str, Image, NDArray[np.float32]]]:
    """Return name, two slices and their spacing (z, y, x) in mm of each patient of a file."""
    with np.load(file, allow_pickle=False) as stored:
        hu, pixels, names = stored["hu"], stored["pixel_mm"], stored["name"]
    for first in range(0, len(hu), 2):
        name, other = (str(names[first + i]).partition("|")[0] for i in range(2))
        if name != other:
            raise FedM2CTError(f"{file}: slices {first} and {first + 1} are of two patients")
        to_mm = pixels[first]
        second = resampled(hu[first + 1], pixels[first + 1], to_mm)
        spacing = np.array([SLICES_APART_MM, to_mm, to_mm], np.float32)
        yield name, np.stack([hu[first], second]), spacing


def write(out: Path, slices: Path, volumes: Sequence[str]) -> list[Path]:
    """Write every scan into `out`; return the files in order."""
    scans: dict[str, tuple[Image, NDArray[np.float32]]] = {}
    for number, (name, hu, spacing) in enumerate(patients(slices)):
        place = FIRST_TEST + number - 1 if number else 1
        scans[f"{place:02d}-{name}.npz"] = hu, spacing
    for number, volume in enumerate(volumes, start=FIRST_VOLUME):
        name, _, file = volume.partition("=")
        scan = read_scan(file)
        spacing = np.array(scan.spacing_zyx_mm, np.float32)
        scans[f"{number}-{name}.npz"] = scan.hu, spacing
    out.mkdir(parents=True, exist_ok=True)
    for name, (hu, spacing) in scans.items():
        np.savez_compressed(out / name, hu=hu, spacing_zyx_mm=spacing)
    return [out / name for name in scans]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder and print each file with its patient's name in records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=Path, required=True, metavar="NPZ")
    parser.add_argument("--volume", action="append", default=[], metavar="NAME=NPZ")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        for file in write(options.out, options.slices, options.volume):
            print(f"{file}: {read_scan(file).patient}")
    except (OSError, KeyError, FedM2CTError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
