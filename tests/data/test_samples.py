"""Fetching the built-in scans, without a network: pip is a fake, or has a local folder only."""

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fedm2ct.data import pip_download, sample_cache, samples
from fedm2ct.data.pip_download import DownloadFailed, Package
from fedm2ct.data.samples import SAMPLES, Sample, SamplesUnavailable, fetch, fetch_many, load_sample

from .scan_files import image, volume, write_dicom

Steps = list[tuple[str, float]]


class FakePip:
    """Stands in for `pip_download.run`: puts archives where pip would, and counts."""

    def __init__(self) -> None:
        self.archives: dict[str, tuple[str, bytes]] = {}
        self.commands: list[list[str]] = []
        self.offline = False

    def run(self, command, environment, watch: Callable[[], None]) -> None:
        self.commands.append(list(command))
        watch()
        if self.offline:
            raise DownloadFailed("pip says 'No matching distribution found'")
        if "download" in command:
            target = Path(command[command.index("--dest") + 1])
            wanted = Path(command[-1]).read_text().split("==")[0]
            name, content = self.archives[wanted]
            (target / name).write_bytes(content)
            watch()

    @property
    def downloads(self) -> list[str]:
        return [Path(c[-1]).stem for c in self.commands if "download" in c]


def wheel(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def sdist(files: dict[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        if link is not None:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def nrrd(folder: Path, shift: int) -> bytes:
    path = folder / f"made{shift}.nrrd"
    sitk.WriteImage(image(volume() + np.int16(shift)), str(path))
    return path.read_bytes()


@pytest.fixture
def pip(tmp_path: Path, monkeypatch) -> FakePip:
    """Three samples in two packages, and a fake pip that has them."""
    fake = FakePip()
    first, second = nrrd(tmp_path, 0), nrrd(tmp_path, 1)
    slices = {p.name: p.read_bytes() for p in write_dicom(tmp_path / "made", volume())}
    total = sha256()
    for name, content in sorted(slices.items()):
        total.update(name.encode() + b"\0" + sha256(content).digest())
    boat = Package("boat", "1.0", True, "0" * 64, 1, "MIT")
    tree = Package("tree", "2.0", False, "1" * 64, 1, "BSD-3-Clause")
    made = (
        Sample("a", boat, ("boat/data/a.nrrd",), sha256(first).hexdigest(), "first", "chest"),
        Sample("b", tree, ("data/b.nrrd",), sha256(second).hexdigest(), "second", "chest"),
        Sample("c", tree, tuple(f"d/{n}" for n in slices), total.hexdigest(), "third", "abdomen"),
    )
    fake.archives["boat"] = (
        "boat-1.0-py3-none-any.whl",
        wheel({"boat/data/a.nrrd": first, "boat/evil.py": b"x"}),
    )
    fake.archives["tree"] = (
        "tree-2.0.tar.gz",
        sdist(
            {"tree-2.0/data/b.nrrd": second, "tree-2.0/setup.py": b"x"}
            | {f"tree-2.0/d/{name}": content for name, content in slices.items()}
        ),
    )
    monkeypatch.setattr(samples, "SAMPLES", {sample.name: sample for sample in made})
    monkeypatch.setattr(pip_download, "run", fake.run)
    monkeypatch.setattr(pip_download.venv.EnvBuilder, "create", lambda *_: None)
    monkeypatch.setenv("FEDM2CT_CACHE", str(tmp_path / "cache"))
    return fake


def quiet(what: str, fraction: float) -> None:
    assert what and 0 <= fraction <= 1


def test_each_package_is_downloaded_once_and_then_never_again(pip: FakePip, tmp_path: Path):
    steps: Steps = []
    paths = fetch_many(["a", "b", "c"], lambda what, fraction: steps.append((what, fraction)))
    assert pip.downloads == ["boat", "tree"]
    assert {what for what, _ in steps} >= {"downloading boat==1.0 (1 MB, once)"}
    assert steps[-1][1] == 1.0
    pip.offline = True
    assert fetch_many(["c", "b", "a"], quiet) == paths
    cached = {p.relative_to(tmp_path / "cache") for p in (tmp_path / "cache").rglob("*.*")}
    assert {p.parts[1] for p in cached} == {"a", "b", "c"}
    assert not any(p.suffix == ".py" for p in cached)


def test_one_sample_brings_the_others_of_its_package(pip: FakePip):
    fetch("b", quiet)
    pip.offline = True
    assert fetch("c", quiet).is_dir() and samples.is_cached("c")
    assert not samples.is_cached("a")


def test_loaded_samples_are_scans_with_their_own_patient_and_licence(pip: FakePip):
    for name, kind in (("a", "NRRD"), ("c", "DICOM")):
        scan = load_sample(name, quiet)
        np.testing.assert_array_equal(scan.hu, volume())
        assert (scan.name, scan.patient) == (name, f"sample-{name}")
        assert scan.provenance["format"] == kind
    assert scan.provenance["package"] == "tree 2.0"
    assert scan.provenance["licence"] == "BSD-3-Clause"


def test_pip_is_asked_for_the_exact_archive_and_installs_nothing_of_it(pip: FakePip, monkeypatch):
    seen = {}

    def run(command, environment, watch):
        if "download" in command:
            seen[Path(command[-1]).stem] = (list(command), Path(command[-1]).read_text())
        FakePip.run(pip, command, environment, watch)

    monkeypatch.setattr(pip_download, "run", run)
    fetch_many(["a", "b"], quiet)
    command, requirement = seen["boat"]
    assert requirement == f"boat==1.0 --hash=sha256:{'0' * 64}\n"
    assert command[:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert "--no-binary" not in command
    command, requirement = seen["tree"]
    assert command[0] != sys.executable
    assert {"--no-deps", "--no-binary", ":all:", "--no-build-isolation"} < set(command)
    installed = [c for c in pip.commands if "install" in c]
    assert len(installed) == 1 and installed[0][-5:] == list(pip_download.BUILD_TOOLS)
    assert installed[0][0] != sys.executable


def test_offline_and_uncached_says_what_to_do(pip: FakePip, tmp_path: Path):
    pip.offline = True
    with pytest.raises(SamplesUnavailable, match=r"Sample a is not cached.*FEDM2CT_CACHE"):
        fetch("a", quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_file_is_noticed_and_fetched_again(pip: FakePip):
    path = fetch("a", quiet)
    good = path.read_bytes()
    path.write_bytes(good[:-7] + b"\0" * 7)
    assert not samples.is_cached("a")
    assert fetch("a", quiet).read_bytes() == good
    folder = fetch("c", quiet)
    (folder / "stray.dcm").write_bytes(b"")
    next(folder.glob("slice*")).unlink()
    assert len(list(fetch("c", quiet).iterdir())) == 5
    assert pip.downloads == ["boat", "boat", "tree", "tree"]


def test_other_contents_are_refused_and_not_cached(pip: FakePip, tmp_path: Path):
    pip.archives["boat"] = (pip.archives["boat"][0], wheel({"boat/data/a.nrrd": b"other"}))
    with pytest.raises(SamplesUnavailable, match=r"Sample a.*SHA-256.*nothing was cached"):
        fetch("a", quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_truncated_or_wrong_archives_are_refused(pip: FakePip, tmp_path: Path):
    name, whole = pip.archives["tree"]
    bad = [whole[:100], b"", sdist({}), sdist({}, ("tree-2.0/data/b.nrrd", "/etc"))]
    for content in bad:
        pip.archives["tree"] = (name, content)
        with pytest.raises(SamplesUnavailable, match=r"archive of tree==2\.0 is truncated"):
            fetch("b", quiet)
    pip.archives["boat"] = (pip.archives["boat"][0], wheel({})[:10])
    with pytest.raises(SamplesUnavailable, match=r"archive of boat==1\.0 is truncated"):
        fetch("a", quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_bad_neighbour_in_the_package_does_no_harm(pip: FakePip):
    name, whole = pip.archives["tree"]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        scan = archive.extractfile("tree-2.0/data/b.nrrd").read()
    pip.archives["tree"] = (name, sdist({"tree-2.0/data/b.nrrd": scan}))
    assert fetch("b", quiet).read_bytes() == scan
    with pytest.raises(SamplesUnavailable, match="Sample c: the archive"):
        fetch("c", quiet)


def test_ctrl_c_leaves_nothing_half_written(pip: FakePip, tmp_path: Path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_cache, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("a", quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_archive_left_by_pip(pip: FakePip, monkeypatch):
    monkeypatch.setattr(pip_download, "run", lambda *_: None)
    with pytest.raises(SamplesUnavailable, match="no archive"):
        fetch("a", quiet)


def test_unwritable_cache_folder(pip: FakePip, tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDM2CT_CACHE", str(tmp_path / "file"))
    with pytest.raises(SamplesUnavailable, match=r"cannot be written.*FEDM2CT_CACHE"):
        fetch("a", quiet)


def test_unknown_name():
    with pytest.raises(SamplesUnavailable, match="did you mean torso"):
        fetch("torsso")


def test_default_progress_is_a_bar_on_a_terminal(pip: FakePip, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch("a")
    assert "downloading boat==1.0" in capsys.readouterr().err
    fetch("a")
    assert capsys.readouterr().err == ""


def test_there_is_no_bar_in_a_log_file(pip: FakePip, capsys):
    fetch("a")
    assert capsys.readouterr().err == ""


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("FEDM2CT_CACHE", str(tmp_path))
    assert samples.cache_folder() == tmp_path
    monkeypatch.delenv("FEDM2CT_CACHE")
    monkeypatch.setattr(sample_cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert samples.cache_folder() == tmp_path / "x" / "fedm2ct"


def environment(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ, TMPDIR=str(tmp_path / "t"))


def test_run_tells_pips_last_complaint_and_watches(tmp_path: Path):
    code = "import sys,time;time.sleep(.5);print('ERROR: no such thing.');sys.exit(1)"
    watched: list[int] = []
    with pytest.raises(DownloadFailed, match="pip says 'no such thing'"):
        pip_download.run(
            [sys.executable, "-c", code], environment(tmp_path), lambda: watched.append(1)
        )
    assert watched
    code = "print('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES ...');raise SystemExit(1)"
    with pytest.raises(DownloadFailed, match="SHA-256 differs"):
        pip_download.run([sys.executable, "-c", code], environment(tmp_path), lambda: None)
    with pytest.raises(DownloadFailed, match="cannot be started"):
        pip_download.run([str(tmp_path / "nothing")], environment(tmp_path), lambda: None)


def test_the_virtual_environments_own_pip_settings_are_passed_on(tmp_path: Path, monkeypatch):
    (tmp_path / "pip.conf").write_text("[global]\n")
    monkeypatch.setattr(pip_download.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(pip_download.sys, "platform", "linux")
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    made = pip_download._environment(tmp_path / "tmp")
    assert made["PIP_CONFIG_FILE"] == str(tmp_path / "pip.conf")
    assert made["TMPDIR"] == str(tmp_path / "tmp")


def test_the_records_are_complete():
    for name, sample in SAMPLES.items():
        assert sample.name == name and sample.description and sample.anatomy in ("chest", "abdomen")
        assert len(sample.sha256) == len(sample.package.sha256) == 64
        assert sample.licence in ("MIT", "BSD-3-Clause", "Apache-2.0")
    assert len(SAMPLES["liver_dicom"].members) == 20


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch) -> bytes:
    """A folder with one small wheel, from which pip alone may take; the wheel's contents."""
    info = "boat-1.0.dist-info/"
    content = wheel(
        {
            "boat/data/a.nrrd": b"scan",
            info + "METADATA": b"Metadata-Version: 2.1\nName: boat\nVersion: 1.0\n",
            info + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            info + "RECORD": b"",
        }
    )
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "boat-1.0-py3-none-any.whl").write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return content


def test_pip_itself_takes_the_expected_archive_and_no_other(shelf: bytes, tmp_path: Path):
    right = Package("boat", "1.0", True, sha256(shelf).hexdigest(), 1, "MIT")
    for name, package, complaint in (
        ("right", right, None),
        ("wrong", replace(right, sha256="0" * 64), "SHA-256 differs"),
        ("absent", replace(right, version="2.0"), "No matching distribution"),
    ):
        work = tmp_path / name
        work.mkdir()
        if complaint is None:
            assert pip_download.download(package, work, quiet).read_bytes() == shelf
            continue
        with pytest.raises(DownloadFailed, match=complaint):
            pip_download.download(package, work, quiet)
