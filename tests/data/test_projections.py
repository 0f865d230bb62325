"""Projections on disk: what was written is read; damage is named; nothing half-written."""

from pathlib import Path

import h5py
import pytest
import torch

from fedm2ct.data import projections as module
from fedm2ct.data.projections import (
    ProjectionsError,
    read_projections,
    read_truth,
    write_projections,
)
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, equispaced_angles
from fedm2ct.physics.protocols import Protocol

PROTOCOL = Protocol(
    name="odd",
    geometry=FanGeometry(equispaced_angles(7, 2.1, 0.3), 9, 1.3, 500.0, 1000.0, "curved", 0.4),
    grid=ImageGrid(6, 5, 1.5),
    photons=2e4,
    electronic_noise=3.0,
    tube_kvp=100.0,
    kernel="Br38",
)


def sinogram() -> torch.Tensor:
    return torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(1))


def test_round_trip(tmp_path: Path):
    truth = torch.full((2, 1, 6, 5), 40.0)
    path = write_projections(
        tmp_path / "new" / "p.h5", sinogram(), PROTOCOL, truth_hu=truth, provenance={"seed": 3}
    )
    values, protocol = read_projections(path)
    assert torch.equal(values, sinogram()) and values.dtype == torch.float32
    assert protocol == PROTOCOL
    assert torch.equal(read_truth(path), truth)
    assert [p.name for p in path.parent.iterdir()] == ["p.h5"]


def test_truth_is_optional(tmp_path: Path):
    assert read_truth(write_projections(tmp_path / "p.h5", sinogram(), PROTOCOL)) is None


def damage_attribute(name: str, value: object) -> object:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file.attrs[name] = value

    return change


def damage_dataset(values: object) -> object:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file["projections"]
            if values is not None:
                file["projections"] = values

    return change


def damage_bytes(keep: float) -> object:
    def change(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_attribute("format", "other"), "attribute format is 'other'"),
        (damage_attribute("version", 2), "attribute version is 2"),
        (damage_attribute("protocol", "{"), "attribute protocol"),
        (damage_attribute("protocol", "[]"), "attribute protocol.*table"),
        (damage_attribute("protocol", '{"name": "x", "vews": 3}'), "attribute protocol.*views"),
        (damage_dataset(None), "dataset projections is missing"),
        (damage_dataset(torch.zeros(2, 1, 7, 8)), r"needs \(n, 1, 7, 9\)"),
        (damage_dataset(torch.full((2, 1, 7, 9), torch.nan)), "NaN"),
        (damage_dataset([[b"x"]]), "expected real numbers"),
        (damage_bytes(0.0), "truncated or not HDF5"),
        (damage_bytes(0.5), "truncated or not HDF5"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage, message: str):
    path = write_projections(tmp_path / "p.h5", sinogram(), PROTOCOL)
    damage(path)
    with pytest.raises(ProjectionsError, match=rf"p\.h5.*{message}"):
        read_projections(path)


def test_damaged_data_block_is_named(tmp_path: Path):
    path = write_projections(tmp_path / "p.h5", sinogram(), PROTOCOL)
    with h5py.File(path) as file:
        block = file["projections"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[block.byte_offset : block.byte_offset + block.size] = b"\xff" * block.size
    path.write_bytes(content)
    with pytest.raises(ProjectionsError, match="dataset projections is damaged"):
        read_projections(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(ProjectionsError, match="no such file"):
        read_projections(tmp_path / "p.h5")


def test_wrong_arrays_are_not_written(tmp_path: Path):
    path = tmp_path / "p.h5"
    for arguments, message in (
        ({"projections": sinogram()[:, 0]}, "projections has shape"),
        ({"projections": sinogram() * torch.inf}, "projections holds NaN"),
        ({"projections": sinogram(), "truth_hu": torch.zeros(2, 1, 6, 6)}, "truth_hu has shape"),
        ({"projections": sinogram(), "truth_hu": torch.zeros(1, 1, 6, 5)}, "differ in their"),
    ):
        with pytest.raises(ProjectionsError, match=message):
            write_projections(path, protocol=PROTOCOL, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch, error):
    path = write_projections(tmp_path / "p.h5", sinogram(), PROTOCOL)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module.os, "replace", fail)
    expected = ProjectionsError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_projections(path, sinogram() + 1, PROTOCOL)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]
    assert torch.equal(read_projections(path)[0], sinogram())


def test_unwritable_place(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectionsError, match="cannot be written"):
        write_projections(tmp_path / "file" / "p.h5", sinogram(), PROTOCOL)
