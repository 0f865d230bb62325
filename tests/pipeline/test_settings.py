"""Settings: every one resolves at every size, and no patient has two roles."""

import numpy as np
import pytest
import torch

from fedm2ct.config import ConfigError
from fedm2ct.data.samples import SAMPLES
from fedm2ct.data.sites import split_reference
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods import METHODS
from fedm2ct.learning.seeds import generator
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.protocols import PROTOCOLS, TruncationWarning, protocol_from_dict
from fedm2ct.pipeline.conventional import CONVENTIONAL
from fedm2ct.pipeline.prepare import read_cohort, site_protocol, site_protocols
from fedm2ct.pipeline.scan_folder import assign, patients_in
from fedm2ct.pipeline.settings import (
    SETTINGS,
    SIZES,
    load_setting,
    resolved_protocol,
    short_names,
)

EVERY = pytest.mark.parametrize("name", SETTINGS)


def patients(scans):
    return {split_reference(reference)[0] for reference in scans}


def training_patients(setting):
    return set().union(*(patients(site.scans) for site in setting.config.sites))


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_every_setting_resolves_at_every_size(name, size, recwarn):
    setting = load_setting(name, size)
    config = setting.config
    assert config.methods == [*CONVENTIONAL, *METHODS]
    assert len(config.seeds) >= (1 if size == "tiny" else 3)
    sites = [*config.sites, *([setting.newcomer] if setting.newcomer else [])]
    for site in sites:
        protocol = site_protocol(site, config.image_size)
        assert protocol.grid.shape == (config.image_size, config.image_size)
        original = PROTOCOLS[site.protocol["name"]]
        seen = 380.0 if name == "multi-vendor" else original.grid.field_of_view_mm
        assert protocol.grid.field_of_view_mm == pytest.approx(seen)
        assert protocol.geometry.n_views >= 8
    assert not [w for w in recwarn if issubclass(w.category, TruncationWarning)]


@EVERY
def test_no_patient_has_two_roles(name):
    setting = load_setting(name, "small")
    roles = [
        training_patients(setting),
        patients(setting.config.test.scans),
        patients(setting.validation.scans),
        patients(setting.config.meta.scans),
        *([patients(setting.newcomer.scans)] if setting.newcomer else []),
    ]
    everybody = [patient for role in roles for patient in role]
    assert len(set(everybody)) == len(everybody)
    assert set(everybody) <= set(SAMPLES)


@EVERY
def test_sites_that_share_a_patient_have_separate_parts(name, recwarn):
    setting = load_setting(name, "small", phantoms=True)
    cohort = read_cohort(setting.config)
    taken = {}
    for site in cohort.split.sites:
        for selection in cohort.split[site]:
            low, high = selection.range
            for first, last in taken.setdefault(selection.scan, []):
                assert high + 2 < first or last + 2 < low
            taken[selection.scan].append((low, high))


def test_half_of_the_hybrid_sites_have_no_pairs_and_share_no_patient_with_the_others():
    sites = load_setting("hybrid", "small").config.sites
    kinds = {kind: [s for s in sites if s.supervision == kind] for kind in ("paired", "none")}
    assert len(kinds["paired"]) == len(kinds["none"]) == 3
    with_pairs, without = (
        set().union(*(patients(site.scans) for site in kinds[kind])) for kind in ("paired", "none")
    )
    assert not with_pairs & without


def test_mixed_setting_has_every_kind_and_several_doses():
    protocols = site_protocols(load_setting("all-in-one", "small").config).values()
    assert {p.geometry.n_views for p in protocols} == {40, 64, 120, 150, 240}
    assert len({p.photons for p in protocols}) == 4


def test_scaling_all_lengths_alike_keeps_the_fan():
    sites = load_setting("multi-vendor", "full").config.sites
    for site in sites:
        scaled, original = site_protocol(site, 256), PROTOCOLS[site.protocol["name"]]
        a, b = scaled.geometry, original.geometry
        assert a.n_bins == b.n_bins
        growth = 380.0 / original.grid.field_of_view_mm
        for field in ("detector_pitch_mm", "source_to_isocentre_mm", "source_to_detector_mm"):
            assert getattr(a, field) == pytest.approx(growth * getattr(b, field))


@pytest.mark.parametrize("name", ["scan-physfed-4", "scan-physfed-6"])
def test_noise_in_a_pixel_is_the_same_at_every_size(name):
    def noise_hu(size, views):
        protocol = protocol_from_dict(resolved_protocol(name, size, views)).scaled(size)
        water = torch.full((8, 1, *protocol.geometry.shape), 2.0)
        noisy = add_dose_noise(water, protocol.photons, 0.0, generator(1, name, size))
        image = fbp(noisy - water, protocol.geometry, protocol.grid)[
            ..., size // 4 : -size // 4, size // 4 : -size // 4
        ]
        return float(image.std()) * 1000

    own = noise_hu(256, 1.0)
    assert noise_hu(128, 0.5) == pytest.approx(own, rel=0.1)
    assert noise_hu(64, 0.25) == pytest.approx(own, rel=0.2)


def test_views_follow_the_size_and_keep_their_arc():
    def views(size):
        protocols = site_protocols(load_setting("multi-vendor", size).config)
        return [p.geometry.n_views for p in protocols.values()]

    assert views("small") == [512, 64, 256, 192, 356, 100, 280, 184]
    assert views("full") == [4 * n for n in views("small")]
    limited = load_setting("all-in-one", "tiny").config.sites[4]
    angles = site_protocol(limited, 32).geometry.angles_rad
    assert len(angles) == 30
    np.testing.assert_allclose(np.degrees([angles[0], angles[-1]]), [30, 146])


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("multivendor", "tiny", "did you mean 'multi-vendor'"),
        ("hybrid", "smal", "did you mean 'small'"),
        ("x", "tiny", "there are multi-vendor"),
    ],
)
def test_what_does_not_exist_is_refused(name, size, said):
    with pytest.raises(ConfigError, match=said):
        load_setting(name, size)


def test_methods_seeds_and_options_may_be_chosen():
    setting = load_setting("all-in-one", "tiny")
    chosen = setting.chosen(["fbp", "fedprox"], [4, 5])
    assert (chosen.config.methods, chosen.config.seeds) == (["fbp", "fedprox"], [4, 5])
    tuned = chosen.with_options({"fedprox": {"mu": 0.5}, "fedm2ct": {"lambda_shared": 0.1}})
    assert tuned.config.method.fedprox.mu == 0.5
    assert tuned.config.fedm2ct.lambda_shared == 0.1
    assert tuned.config.fedm2ct.meta_steps == setting.config.fedm2ct.meta_steps
    for wrong, said in (({"fedprox": {"nu": 1}}, "'nu'|nu"), ({"fedavg": {"x": 1}}, "fedavg")):
        with pytest.raises(ConfigError, match=said):
            setting.with_options(wrong)
    with pytest.raises(ConfigError, match="differ"):
        setting.chosen(["fbp", "fbp"], None)


def make_folder(folder):
    for name in ("b.nii.gz", "a.npz", "notes.txt"):
        (folder / name).touch()
    for name, inside in (("c", "volume.npz"), ("d", "PROVENANCE.txt"), ("e", "IM0001")):
        (folder / name).mkdir()
        (folder / name / inside).write_bytes(b"\0" * 128 + b"DICM" if name == "e" else b"")
    return folder


def test_patients_of_a_folder_are_its_entries_by_name(tmp_path):
    names = ["a.npz", "b.nii.gz", "c/volume.npz", "e"]
    assert patients_in(make_folder(tmp_path)) == [str(tmp_path / name) for name in names]


def test_folders_without_scans_and_with_too_many_are_refused(tmp_path):
    with pytest.raises(FedM2CTError, match="cannot be read"):
        patients_in(tmp_path / "none")
    with pytest.raises(FedM2CTError, match="holds no scans"):
        patients_in(tmp_path)
    (tmp_path / "p").mkdir()
    for name in ("1.npz", "2.npz"):
        (tmp_path / "p" / name).touch()
    with pytest.raises(FedM2CTError, match="holds 2 scans"):
        patients_in(tmp_path)


def test_more_patients_get_roles_in_order():
    given = assign(list("abcdefgh"), validation=2, test=1, sites=3)
    assert (given.validation, given.test) == (["a", "b"], ["c"])
    assert given.sites == [["d", "g"], ["e", "h"], ["f"]]
    few = assign(["a"], validation=2, test=3, sites=2)
    assert (few.validation, few.test, few.sites) == (["a"], [], [[], []])


def test_more_patients_join_the_setting(tmp_path):
    folder = make_folder(tmp_path)
    own = load_setting("all-in-one", "tiny")
    more = load_setting("all-in-one", "tiny", folder, roles={"validation": 1, "test": 2})
    assert more.validation.scans == [*own.validation.scans, str(folder / "a.npz")]
    added = [str(folder / name) for name in ("b.nii.gz", "c/volume.npz")]
    assert more.config.test.scans == [*own.config.test.scans, *added]
    assert more.config.sites[0].scans == [*own.config.sites[0].scans, str(folder / "e")]
    assert more.config.sites[1].scans == own.config.sites[1].scans
    given = "--scans DIR --validation-patients 1 --test-patients 2"
    assert more.command == f"fedm2ct benchmark all-in-one --size tiny {given}"
    assert own.command == "fedm2ct benchmark all-in-one --size tiny"
    phantoms = load_setting("all-in-one", "tiny", phantoms=True)
    assert phantoms.command == f"{own.command} --phantoms"


def test_too_few_patients_of_a_folder_are_said(tmp_path):
    folder = make_folder(tmp_path)
    said = "4 patients where 12 are asked for: 2 of 2 for validation, 2 of 10 for the test, none"
    with pytest.warns(UserWarning, match=said):
        few = load_setting("all-in-one", "tiny", folder)
    assert few.config.test.scans[1:] == [str(folder / "c" / "volume.npz"), str(folder / "e")]


def test_patients_are_not_counted_without_a_folder():
    with pytest.raises(ConfigError, match="--test-patients counts patients of --scans; add --sc"):
        load_setting("all-in-one", "tiny", roles={"test": 2})


def test_records_name_no_folders_of_a_machine():
    scans = ["lung1@1/2", "/home/me/scans/p1.npz", "/home/me/scans/p2/volume.npz"]
    assert short_names(scans) == ["lung1@1/2", "scans/p1.npz", "p2/volume.npz"]


def test_sites_without_pairs_are_scored_by_perceptual_metrics_but_not_in_tests():
    scored = {size: load_setting("hybrid", size).config.evaluation.perceptual for size in SIZES}
    assert scored == {"tiny": False, "small": True, "full": True}
