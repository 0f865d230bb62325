"""No patient in two roles; slices spaced evenly; neighbours of held-out slices dropped."""

from pathlib import Path

import numpy as np
import pytest

from fedm2ct.data import sites
from fedm2ct.data.samples import SAMPLES
from fedm2ct.data.scans import Scan, ScanError
from fedm2ct.data.sites import (
    Selection,
    Split,
    SplitError,
    count_patients,
    hold_out,
    load_scan,
    pick_slices,
    select,
)
from tests.data.scan_files import volume, write_dicom


def scan_with_empty_ends(n: int = 30) -> Scan:
    hu = np.full((n, 10, 10), -1000, np.int16)
    hu[5:25, 2:8, 2:8] = 30
    hu[3:5, 2:4, 2:4] = 30  # a ninth of the body's area
    return Scan(hu, (1.0, 1.0, 1.0), "made", "nobody")


def one(scan: str, patient: str) -> tuple[Selection, ...]:
    return (Selection(scan, patient, (1, 2)),)


def test_a_patient_in_two_roles_is_refused():
    with pytest.raises(SplitError, match=r"b of 'test' and scan a of 'north'.*one patient \(p1\)"):
        Split({"north": one("a", "p1"), "test": one("b", "p1")})
    with pytest.raises(SplitError, match="one patient"):
        Split({"north": one("a", "p1"), "south": one("a", "p1")})


def test_roles_and_sites():
    both = (*one("a", "p1"), *one("b", "p1"))
    split = Split({"north": both, "meta": one("c", "p2"), "test": one("d", "p3")})
    assert split.sites == ("north",)
    assert split["north"] == both and split["validation"] == ()
    assert count_patients(split["north"]) == 1


def test_picked_slices_are_spaced_evenly_within_the_body():
    assert pick_slices(scan_with_empty_ends(), 4) == (7, 12, 17, 22)
    assert pick_slices(scan_with_empty_ends(), 99) == tuple(range(5, 25))
    assert pick_slices(scan_with_empty_ends(), 99, minimum_body=0.1) == tuple(range(3, 25))
    with pytest.raises(SplitError, match="0 slices"):
        pick_slices(scan_with_empty_ends(), 0)


def test_held_out_block_is_contiguous_and_kept_apart():
    used, block = hold_out(range(20), 0.2, gap_slices=2)
    assert block == (16, 17, 18, 19)
    assert used == tuple(range(14))
    assert hold_out((0, 5, 10, 15), 0.25, gap_slices=4) == ((0, 5, 10), (15,))
    assert hold_out((3, 1), 0.0) == ((1, 3), ())
    for fraction, gap in ((1.0, 0), (-0.1, 0), (0.2, -1)):
        with pytest.raises(SplitError, match="expected a fraction"):
            hold_out(range(9), fraction, gap)
    with pytest.raises(SplitError, match="leaves none"):
        hold_out((1, 2, 3), 0.5, gap_slices=5)


def test_select_joins_both():
    selection = select(scan_with_empty_ends(), 10, source="x.nii", held_out_fraction=0.2)
    assert selection.scan == "x.nii" and selection.patient == "nobody"
    assert len(selection.held_out) == 2
    assert min(selection.held_out) - max(selection.slices) > 2


def test_selections_refuse_nothing_and_overlap():
    with pytest.raises(SplitError, match="no slices"):
        Selection("a", "p", ())
    with pytest.raises(SplitError, match="slice 2 is both"):
        Selection("a", "p", (1, 2), (2, 3))


def test_load_scan_takes_names_and_paths(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sites, "load_sample", lambda name: f"sample {name}")
    assert load_scan("torso") == "sample torso"
    hu = scan_with_empty_ends().hu
    np.savez(tmp_path / "a.npz", hu=hu, spacing_zyx_mm=(1, 1, 1))
    assert load_scan(tmp_path / "a.npz").name == "a"
    write_dicom(tmp_path / "ward#3", volume(), series="1.2.826.1")
    assert load_scan(f"{tmp_path}/ward#3#1.2.826.1").name == "ward#3"
    with pytest.raises(ScanError, match="did you mean torso"):
        load_scan("torsoo")


def test_the_built_in_samples_are_different_patients():
    assert len({sample.patient for sample in SAMPLES.values()}) == len(SAMPLES) == 6
