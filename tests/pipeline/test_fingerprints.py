"""What a unit's result depends on, and no more: so that a benchmark can grow."""

import pytest

from fedm2ct.config import MethodConfig, SiteConfig, parse_config
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.pipeline.fingerprints import (
    HAS_PRIVATE,
    READS_HYBRID,
    READS_OUR_OPTIONS,
    run_fingerprint,
    unit_fingerprint,
)
from fedm2ct.pipeline.settings import load_setting
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


@pytest.fixture
def config():
    return load_setting("all-in-one", "tiny").config


def changed(config, **tables):
    data = config.model_dump(mode="json")
    for table, fields in tables.items():
        if isinstance(fields, dict):
            data[table].update(fields)
        else:
            data[table] = fields
    return parse_config(data)


def prints(config):
    return {method: unit_fingerprint(config, method) for method in config.methods}


@pytest.mark.parametrize(
    ("tables", "touched"),
    [
        ({"methods": ["fbp", "fedavg"]}, set()),
        ({"seeds": [7, 8]}, set()),
        ({"name": "other"}, set()),
        ({"test": {"slices": 9}}, set()),
        ({"method": {"fedprox": {"mu": 0.7}}}, {"fedprox"}),
        ({"federation": {"aggregation": "median"}}, set(METHODS) | {"fbp", "sirt", "tv"}),
        ({"privacy": {"update_clip": 1.0}}, set(METHODS) | {"fbp", "sirt", "tv"}),
        ({"method": {"moon": {"temperature": 0.7}}}, {"moon"}),
        ({"fedm2ct": {"lambda_shared": 0.9}}, {"fedm2ct"}),
        ({"fedm2ct": {"meta_steps": 9}}, {"fedm2ct", "sc3fl"}),
        ({"model": {"private": "resnet"}}, {"fedm2ct", "fedkd", "fml", "local", "local_public"}),
        ({"model": {"private_sees_fbp": True}}, set(HAS_PRIVATE)),
        ({"hybrid": {"loss": ["teacher"]}}, {"fedm2ct", "local"}),
    ],
)
def test_only_those_that_read_an_option_depend_on_it(config, tables, touched):
    before, after = prints(config), prints(changed(config, **tables))
    assert {m for m in after if after[m] != before[m]} == touched


@pytest.mark.parametrize(
    "tables",
    [
        {"image_size": 48},
        {"training": {"rounds": 5}},
        {"model": {"width": 6}},
        {"meta": {"slices": 7}},
    ],
)
def test_what_all_share_touches_all(config, tables):
    before, after = prints(config), prints(changed(config, **tables))
    assert all(after[m] != before[m] for m in config.methods)
    assert run_fingerprint(config) != run_fingerprint(changed(config, **tables))


def test_a_neutral_field_counts_only_where_it_is_set(config):
    data = config.model_dump(mode="json")
    data["sites"][0]["supervision"] = "none"
    assert run_fingerprint(parse_config(data)) != run_fingerprint(config)
    assert "supervision" in SiteConfig.neutral
    before = run_fingerprint(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(SiteConfig.model_fields, "supervision")
        assert run_fingerprint(config) == before


class Watched:
    """A configuration that notes what of its tables is read: a method's table, a field of ours."""

    def __init__(self, config, read, within=""):
        self._config, self._read, self._within = config, read, within

    def __getattr__(self, name):
        value = getattr(self._config, name)
        if name in ("method", "fedm2ct", "model"):
            return Watched(value, self._read, name)
        if (self._within == "method" and name in MethodConfig.model_fields) or self._within in (
            "fedm2ct",
            "model",
            "",
        ):
            self._read.add((self._within, name))
        return value


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_its_own_options_and_no_others(method):
    read, made = set(), tiny.setup(unpaired=("B",))
    METHODS[method](Setup(Watched(made.config, read), made.tasks, made.seed, made.public))
    own = {("method", method)} if method in MethodConfig.model_fields else set()
    assert {entry for entry in read if entry[0] == "method"} == own
    ours = {name for table, name in read if table == "fedm2ct"}
    assert ours <= set(READS_OUR_OPTIONS.get(method, ()))
    assert bool(ours) == (method in READS_OUR_OPTIONS)
    private = {name for table, name in read if table == "model"} & {"private", "private_sees_fbp"}
    assert bool(private) == (method in HAS_PRIVATE)
    assert (("", "hybrid") in read) == (method in READS_HYBRID)
