"""What is installed is what `constraints.txt` means.

flwr pins its own dependencies narrowly, so a resolver may silently fall back to an ancient
release of it; a wrong torch or pydantic is just as quiet. A local suffix (``+cpu``) is ignored.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
MAIN_PACKAGES = [
    "click",
    "flwr",
    "h5py",
    "jinja2",
    "matplotlib",
    "numba",
    "numpy",
    "pydantic",
    "pydicom",
    "safetensors",
    "scipy",
    "simpleitk",
    "torch",
    "tqdm",
]


def meant_versions() -> dict[str, str]:
    meant = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"constraints.txt: not an exact version: {text}"
            meant[canonicalize_name(requirement.name)] = specifier.version
    return meant


@pytest.mark.parametrize("package", MAIN_PACKAGES)
def test_installed_version_is_the_one_meant(package):
    assert Version(version(package)).public == Version(meant_versions()[package]).public


def test_constraints_are_portable():
    for name, meant in meant_versions().items():
        assert Version(meant).local is None, f"{name}: a local suffix pins one machine's build"


def test_python_is_supported():
    assert sys.version_info >= (3, 11)
