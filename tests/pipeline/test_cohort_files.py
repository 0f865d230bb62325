"""Slices on disk for workers: what they acquire is what the whole scans give."""

import numpy as np
import pytest

from fedm2ct.config import load_config
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
