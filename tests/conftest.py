"""What several folders of tests share: patients on disk and one finished run."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from fedm2ct.pipeline.settings import load_setting

from .runs import cli, run_jobs_here, write_config, write_patients
from .tiny import scan

# Without a GPU, Triton's kernels are tested in its interpreter. It must be asked for before they
# are first imported, which is at the first use.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that runs the tests in the background has them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """Skip what is marked ``cuda`` where there is no such device."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    """A folder of tiny scans."""
    return write_patients(tmp_path_factory.mktemp("patients"))


@pytest.fixture
def in_process(monkeypatch):
    """Run units of work in this process, where tests can reach into them."""
    monkeypatch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)


@pytest.fixture(scope="session")
def small_phantoms():
    """Build the phantoms of `--phantoms` from few pixels, which takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fedm2ct.pipeline.prepare.phantom_scan",
            lambda name: scan(name, int(name.rpartition("-")[2]), slices=24),
        )
        yield


@pytest.fixture(scope="session")
def two_sites():
    """Leave sites A and E, low mAs and limited angle, of every setting: the others take time."""

    def fewer(*arguments, **options):
        setting = load_setting(*arguments, **options)
        sites = [site for site in setting.config.sites if site.name in ("A", "E")]
        config = setting.config.model_copy(update={"sites": sites})
        return replace(setting, config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.settings.load_setting", fewer)
        yield fewer


@pytest.fixture
def unasked_phantoms(monkeypatch, two_sites):
    """Put phantoms in place of the sample scans without `--phantoms`, which is not published."""

    def with_phantoms(*arguments, **options):
        return two_sites(*arguments, **{**options, "phantoms": True})

    monkeypatch.setattr("fedm2ct.pipeline.settings.load_setting", with_phantoms)


@pytest.fixture(scope="session")
def one_thread():
    """Compute with one thread, as workers do: sums are then in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(patients, tmp_path_factory, one_thread):
    """A run of three methods that nothing has disturbed; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder / "tiny.toml", patients, methods=("fbp", "local", "fedm2ct"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.train.run_jobs", run_jobs_here)
        assert cli("train", config, "--out", folder / "run") == 0
    return folder / "run"
