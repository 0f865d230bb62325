"""What a process imports before it can do its work is part of how long a round takes."""

import subprocess
import sys

import pytest

_CHILD = """
import sys
import {module}
heavy = {{"torch", "flwr", "grpc", "numba", "scipy", "SimpleITK", "matplotlib", "h5py", "pydicom",
         "jinja2", "skimage", "triton", "sympy", "pandas", "ray", "fastapi", "typer", "rich"}}
print(*sorted(heavy & set(sys.modules)))
print(len(sys.modules))
"""
_NOTHING = set()
_FLOWER = {"torch", "flwr", "grpc", "sympy", "scipy", "typer", "rich"}
_COMPUTING = _FLOWER | {"numba", "triton"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        # the supervisors wait for months: they hold nothing
        ("fedm2ct.deployment.site", _NOTHING),
        ("fedm2ct.deployment.coordinator", _NOTHING),
        ("fedm2ct.deployment.status", _NOTHING),
        ("fedm2ct.deployment.worker", _NOTHING),
        # the apps that the bundle names: records and messages
        ("fedm2ct.deployment.apps", _FLOWER),
        # a site at work: models and operators, but neither reports nor scan formats it may not need
        ("fedm2ct.deployment.site_host", _COMPUTING - {"flwr", "grpc", "typer", "rich"}),
    ],
)
def test_a_process_imports_what_it_needs_only(module, allowed):
    done = subprocess.run(
        [sys.executable, "-c", _CHILD.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy, _count = done.stdout.splitlines()
    assert set(heavy.split()) <= allowed
