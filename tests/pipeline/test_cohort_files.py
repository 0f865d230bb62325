"""Slices on disk for workers: what they acquire is what the whole scans give."""

from dataclasses import replace

import numpy as np
import pytest

from fedm2ct.config import load_config
from fedm2ct.data.sites import TEST, Split
from fedm2ct.pipeline.cohort_files import store_cohort, stored_cohort, used_slices
from fedm2ct.pipeline.prepare import read_cohort, site_tasks

from ..runs import write_config


@pytest.fixture
def config(patients, tmp_path):
    def fewer(text):
        return text.replace("slices = 7", "slices = 5")

    return load_config(write_config(tmp_path / "tiny.toml", patients, change=fewer))


def test_workers_get_the_same_slices(config, tmp_path):
    cohort = read_cohort(config)
    store_cohort(cohort, tmp_path / "slices")
    stored = stored_cohort(config, tmp_path / "slices")
    assert stored.protocols == cohort.protocols
    assert set(stored.split.roles) == set(cohort.split.roles)
    for mine, theirs in zip(site_tasks(stored, 1), site_tasks(cohort, 1), strict=True):
        assert mine.name == theirs.name
        for a, b in ((mine.train, theirs.train), (mine.validation, theirs.validation)):
            assert a.truth.equal(b.truth)
            assert a.projections.equal(b.projections)
    for (mine, chosen), (theirs, indices) in zip(stored.public(), cohort.public(), strict=True):
        np.testing.assert_array_equal(mine.hu[list(chosen)], theirs.hu[list(indices)])
        assert (mine.patient, mine.spacing_zyx_mm) == (theirs.patient, theirs.spacing_zyx_mm)


def test_only_what_is_used_is_stored(config, tmp_path):
    cohort = read_cohort(config)
    store_cohort(cohort, tmp_path / "slices")
    for name, scan in stored_cohort(config, tmp_path / "slices").scans.items():
        assert len(scan.hu) == len(used_slices(cohort, name)) < len(cohort.scans[name].hu)


@pytest.mark.parametrize("source", ["none", "contributed"])
def test_a_configuration_without_public_scans_gets_none_of_another_s(config, tmp_path, source):
    store_cohort(read_cohort(config), tmp_path / "slices")
    assert stored_cohort(config, tmp_path / "slices").public()
    meta = config.meta.model_copy(update={"source": source})
    without = config.model_copy(update={"meta": meta})
    assert not read_cohort(without).public()
    assert not stored_cohort(without, tmp_path / "slices").public()


def test_what_training_reads_has_one_hash_here_and_on_disk(config, tmp_path):
    cohort = read_cohort(config)
    store_cohort(cohort, tmp_path / "slices")
    assert stored_cohort(config, tmp_path / "slices").trained_on() == cohort.trained_on()
    renamed = replace(cohort, scans={f"other/{n}": s for n, s in cohort.scans.items()})
    roles = {
        role: tuple(replace(s, scan=f"other/{s.scan}") for s in used)
        for role, used in cohort.split.roles.items()
    }
    assert replace(renamed, split=Split(roles)).trained_on() == cohort.trained_on()


def changed(cohort, scan, index):
    """Return the cohort with another value in one voxel of a scan."""
    hu = cohort.scans[scan].hu.copy()
    hu[index, 0, 0] += 1
    return replace(cohort, scans={**cohort.scans, scan: replace(cohort.scans[scan], hu=hu)})


def test_the_hash_is_of_what_training_reads_and_of_nothing_else(config):
    cohort = read_cohort(config)
    before = cohort.trained_on()
    for role, selections in cohort.split.roles.items():
        for used in selections:
            for index in (*used.slices, *used.held_out):
                after = changed(cohort, used.scan, index).trained_on()
                assert (after == before) == (role == TEST)
            every = set(range(len(cohort.scans[used.scan].hu)))
            unused = min(every - set(used_slices(cohort, used.scan)))
            assert changed(cohort, used.scan, unused).trained_on() == before
