"""A configuration's errors: each names the file, the field and what to do."""

import copy

import pytest

from fedm2ct.config import TAKEN_NAMES, ConfigError, load_config, parse_config
from fedm2ct.data.sites import META, TEST, VALIDATION
from fedm2ct.federation.methods.pooled import MEMBER
from fedm2ct.report.curves import SERVER

GOOD = {
    "name": "tiny",
    "methods": ["fbp", "fedm2ct"],
    "sites": [
        {"name": "A", "protocol": "demo-sparse", "scans": ["lung1"]},
        {"name": "B", "protocol": {"beam": "parallel"}, "scans": ["lung2"]},
    ],
    "test": {"scans": ["cxr"]},
    "meta": {"scans": ["liver_dicom"]},
}


def changed(path: str, value: object) -> dict:
    """Return GOOD with one field set; ``None`` removes it."""
    data = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    table = data
    for step in parents:
        table = table[int(step)] if step.isdigit() else table.setdefault(step, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return data


def test_a_good_configuration_and_its_defaults():
    config = parse_config(GOOD)
    assert config.seeds == [0]
    assert config.meta.source == "simulated"
    assert config.training.rounds > 0


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("imagesize", 64, ["'imagesize'", "not known", "'image_size'"]),
        ("training/round", 3, ["'training.round'", "'rounds'"]),
        ("sites/1/protocoll", "mayo", ["'sites.1.protocoll'", "'protocol'"]),
        ("fedm2ct/lambda_sharde", 1.0, ["'fedm2ct.lambda_sharde'", "'lambda_shared'"]),
        ("method/fedprox/nu", 1.0, ["'method.fedprox.nu'", "known are mu"]),
        ("method/fedprox/mu", -1.0, ["'method.fedprox.mu'", "greater than or equal to 0"]),
        ("method/fedproxy", {}, ["'method.fedproxy'", "'fedprox'"]),
        ("test/zzz", 1, ["'test.zzz'", "known are scans, slices"]),
        ("name", None, ["'name'", "missing"]),
        ("sites/0/scans", None, ["'sites.0.scans'", "missing"]),
        ("sites", [], ["'sites'", "at least 1"]),
        ("training/rounds", 0, ["'training.rounds'", "greater than or equal to 1", "got 0"]),
        ("training/loss", "l1", ["'training.loss'", "'l2'", "got 'l1'"]),
        ("image_size", "big", ["'image_size'", "integer", "got 'big'"]),
        ("sites/0/name", "../up", ["'sites.0.name'", "got '../up'"]),
        ("sites/0/name", "test", ["'sites.0.name'", "'test' is no name for a site"]),
        ("sites/0/validation_fraction", 1.0, ["'sites.0.validation_fraction'", "less than 1"]),
        ("sites/1/name", "A", ["site names must differ"]),
        ("methods", ["fbp", "fbp"], ["methods must differ"]),
        ("seeds", [1, 1], ["seeds must differ"]),
        ("meta/scans", [], ["'meta'", "'scans'"]),
    ],
)
def test_a_wrong_field(path, value, parts):
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(path, value), "my.toml")
    sentence = str(caught.value)
    assert sentence.startswith("my.toml: ")
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


def test_no_site_is_called_as_a_role_or_the_pooled_member_is():
    assert {META, TEST, VALIDATION, SERVER, MEMBER} == set(TAKEN_NAMES)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .*check the path"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b'name = "tiny', b"\xff\xfe name"])
def test_a_file_that_is_not_toml(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml: is not valid TOML"):
        load_config(path)


def test_a_folder_instead_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
