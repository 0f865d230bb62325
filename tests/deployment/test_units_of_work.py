"""What coordinator and sites tell each other of a run, and what a site does not believe."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from fedm2ct.config import ConfigError
from fedm2ct.deployment import federation_file
from fedm2ct.deployment.certificates import key_text, make_site_key, read_public_key
from fedm2ct.deployment.cohorts import coordinator_cohort, no_slices, tasks_without_slices
from fedm2ct.deployment.federation_file import protocol_hash
from fedm2ct.deployment.folders import SiteFolder
from fedm2ct.deployment.site_host import SiteHost
from fedm2ct.deployment.unit_of_work import describe, member, unit_from_json
from fedm2ct.errors import FedM2CTError
from fedm2ct.federation.methods import METHODS
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.physics.protocol_files import unnamed
from fedm2ct.physics.protocols import protocol_from_dict
from fedm2ct.pipeline.fingerprints import unit_fingerprint

from ..runs import cli
from .loopback import _FEDERATION, _SITE, PROTOCOLS

# images of 16 x 16 pixels are far from any scanner's
pytestmark = pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning")


@pytest.fixture
def config(tmp_path, patients):
    path = tmp_path / "federation.toml"
    path.write_text(_FEDERATION.format(method="fedm2ct", folder=patients, rounds=2, steps=2))
    return federation_file.load_federation(path)


@pytest.fixture
def keys(tmp_path):
    """The sites' public keys, as the coordinator has registered them."""
    folder = SiteFolder(tmp_path / "site")
    assert cli("site", "init", folder.root, "--name", "A") == 0
    return {"A": key_text(read_public_key(folder.public_key("A"))), "B": "another"}


@pytest.fixture
def unit(config, keys):
    cohort = coordinator_cohort(config)
    fingerprint = unit_fingerprint(config, "fedm2ct")
    return describe("tiny-1", config, cohort.protocols, "fedm2ct", 4, fingerprint, keys)


@pytest.fixture
def host(tmp_path, patients, keys):
    def built(**changes):
        folder = SiteFolder(tmp_path / "site")
        values = {"name": "A", "protocol": PROTOCOLS["A"], "scans": f'"{patients}/ann.npz"'}
        text = _SITE.format(**{"port": 9, "folder": patients, **values, **changes})
        folder.settings_file.write_text(text)
        return SiteHost(folder)

    return built


def context(unit):
    text = unit if isinstance(unit, str) else unit.to_json()
    return SimpleNamespace(run_config={"unit": text})


def test_sites_are_told_nothing_of_scans_or_of_each_other(unit, patients):
    text = unit.to_json()
    for secret in (str(patients), "evelyn", "npz", '"A"', '"B"', "demo-sparse", "demo-parallel"):
        assert secret not in text
    assert unit_from_json(text) == unit


@pytest.mark.parametrize("method", ["fedm2ct", "fedavg_cross", "fedper"])
def test_protocols_are_told_without_names_and_only_where_they_are_simulated(config, method, keys):
    cohort = coordinator_cohort(config)
    told = describe("tiny-1", config, cohort.protocols, method, 4, "f", keys)
    found = [protocol_from_dict(table) for table in told.protocols]
    expected = [] if method == "fedper" else [unnamed(p) for p in cohort.protocols.values()]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    for secret in ('"A"', '"B"', "demo-sparse", "demo-parallel"):
        assert secret not in told.to_json()
    without = config.fedm2ct.model_copy(update={"cross_protocol": 0.0})
    plain = config.model_copy(update={"fedm2ct": without})
    assert method == "fedavg_cross" or not (
        describe("tiny-1", plain, cohort.protocols, method, 4, "f", keys).protocols
    )


def test_a_site_trains_under_the_protocols_that_it_is_told(config, host, keys):
    protocols = coordinator_cohort(config).protocols
    told = describe("tiny-1", config, protocols, "fedm2ct", 4, "f", keys)
    client = host().find(context(told))._client
    assert client.cross.protocols == [unnamed(protocols["B"])]


def test_a_site_builds_its_half_from_what_it_is_told_and_its_own_scans(unit, host, tmp_path):
    site = host().find(context(unit))
    assert site.name == "A"
    assert site.folder == tmp_path / "site/runs/tiny-1/fedm2ct/seed-4/sites/A"
    manifest = json.loads((tmp_path / "site/runs/tiny-1/manifest.json").read_text())
    assert list(manifest["protocols"]) == ["A"]


def test_a_unit_is_built_once(unit, host):
    place = host()
    assert place.find(context(unit)) is place.find(context(unit))


NOISE = {"slice_clip": 1.0, "slice_noise": 0.5, "update_clip": 1.0, "update_noise": 0.2}


def with_privacy(text, **privacy):
    told = json.loads(text)
    return json.dumps(told | {"config": told["config"] | {"privacy": privacy}})


@pytest.mark.parametrize(
    ("kind", "least", "noise"),
    [
        ("update_noise", 0.2, {}),
        ("update_noise", 0.3, NOISE),
        ("slice_noise", 0.6, NOISE),
    ],
)
def test_a_site_takes_no_part_with_less_noise_than_it_asks_for(unit, host, kind, least, noise):
    place = host()
    text = place._folder.settings_file.read_text()
    place._folder.settings_file.write_text(f"{text}\n[privacy]\nminimum_{kind} = {least}\n")
    told = with_privacy(unit.to_json(), **noise)
    said = f"privacy.minimum_{kind}' is {least}, and 'privacy.{kind}' of the coordinator's .* "
    with pytest.raises(FedM2CTError, match=said + str(noise.get(kind, 0.0))):
        SiteHost(place._folder).find(context(told))


def test_a_site_takes_part_with_the_noise_that_it_asks_for(config, host, keys):
    place = host()
    text = place._folder.settings_file.read_text()
    least = "minimum_update_noise = 0.2\nminimum_slice_noise = 0.5\n"
    place._folder.settings_file.write_text(f"{text}\n[privacy]\n{least}")
    protocols = coordinator_cohort(config).protocols
    told = describe("tiny-1", config, protocols, "fedavg", 4, "f", keys)
    assert SiteHost(place._folder).find(context(with_privacy(told.to_json(), **NOISE))).name == "A"


def test_a_site_takes_no_part_where_its_noise_would_be_known(unit, host):
    with pytest.raises(ConfigError, match=r"coordinator's configuration: .*privacy\.reproducible"):
        host().find(context(with_privacy(unit.to_json(), **NOISE, reproducible=True)))


def test_a_site_with_another_protocol_does_not_take_part(unit, host):
    with pytest.raises(FedM2CTError, match="knows no site 'A' with the protocol"):
        host(protocol="demo-limited").find(context(unit))


def test_a_site_finds_itself_and_cannot_find_out_who_the_others_are(config, unit, keys):
    protocols = coordinator_cohort(config).protocols
    assert member("A", protocols["A"], keys["A"]) in unit.members
    for key in ("", keys["A"]):  # what a site knows, and the other's name and protocol guessed
        assert member("B", protocols["B"], key) not in unit.members
    plain = hashlib.sha256(f"B\n{protocol_hash(protocols['B'])}".encode()).hexdigest()
    assert len(unit.members) == 2 and plain not in unit.members


def test_a_site_with_another_key_than_the_registered_one_does_not_take_part(unit, host, tmp_path):
    place = host()
    make_site_key(place._folder.private_key, tmp_path / "new.pub")
    with pytest.raises(FedM2CTError, match="and this site's key"):
        place.find(context(unit))
    place._folder.private_key.write_text("hello")
    with pytest.raises(FedM2CTError, match=r"site\.key: cannot be used"):
        place.find(context(unit))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "../../elsewhere"},
        {"run": ".hidden"},
        {"method": "a/b"},
        {"method": "unknown"},
        {"method": "pooled"},
        {"seed": "4"},
        {"config": []},
        {"protocols": "all"},
        {"protocols": ["demo-sparse"]},
        {"config": {"training": {"rounds": 0}}},
        {"extra": 1},
    ],
)
def test_a_site_does_not_follow_a_strange_unit(unit, host, changes, tmp_path):
    told = json.loads(unit.to_json()) | changes
    with pytest.raises(FedM2CTError):
        host().find(context(json.dumps(told)))
    assert not list((tmp_path / "site/runs").iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"run": 1}'])
def test_what_is_no_unit_is_refused(text):
    with pytest.raises(FedM2CTError, match="describes no unit of work"):
        unit_from_json(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('protocol = "demo-sparse"', 'protocol = "demo-sparse"\nscans = ["x"]', "sites.scans"),
        ("[model]", '[test]\nscans = ["x"]\n[model]', "no test patients"),
        ('methods = ["fedm2ct"]', 'methods = ["pooled"]', "cannot run over a deployment"),
        ("[meta]", '[meta]\nsource = "contributed"', "would carry patient images"),
        ("rounds = 2", "round = 2", "did you mean"),
        ("[model]", "[privacy]\nreproducible = true\n[model]", "privacy.reproducible"),
    ],
)
def test_a_coordinators_file_is_checked(tmp_path, patients, old, new, said):
    text = _FEDERATION.format(method="fedm2ct", folder=patients, rounds=2, steps=2)
    path = tmp_path / "federation.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said) as caught:
        federation_file.load_federation(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("sites", ['sites = "A"', 'sites = ["A"]', "sites = 3", "[sites]"])
def test_sites_that_are_no_tables_are_named(tmp_path, sites):
    path = tmp_path / "federation.toml"
    path.write_text(f'methods = ["fedavg"]\n{sites}\n')
    with pytest.raises(ConfigError, match=r"federation\.toml: field 'sites' must be a list of"):
        federation_file.load_federation(path)


DEPLOYED = sorted(set(METHODS) - set(federation_file.NOT_DEPLOYED))


@pytest.mark.parametrize("method", DEPLOYED)
def test_every_method_builds_its_server_half_without_any_slice(config, method):
    cohort = coordinator_cohort(config)
    whole = Setup(config, tasks_without_slices(cohort), 4, cohort.public())
    shared = METHODS[method](whole).server.initial_shared()
    assert shared or method.startswith("local")


@pytest.mark.parametrize("method", DEPLOYED)
def test_every_method_s_site_half_takes_what_its_server_half_sends(config, host, method, keys):
    cohort = coordinator_cohort(config)
    whole = Setup(config, tasks_without_slices(cohort), 4, cohort.public())
    server = METHODS[method](whole).server
    told = describe("tiny-1", config, cohort.protocols, method, 4, "f", keys)
    upload = host().find(context(told)).fit(1, server.initial_shared())
    sent = {name: tensor.shape for name, tensor in upload.shared.items()}
    like = server.upload_like(server.initial_shared())
    assert sent == {name: tensor.shape for name, tensor in like.items()}


@pytest.mark.parametrize("method", ["scaffold", "feddyn"])
def test_sites_without_truth_are_not_counted_among_those_that_train(config, method):
    sites = [s.model_copy(update={"supervision": "none"}) for s in config.sites[:1]]
    config = config.model_copy(update={"sites": [*sites, *config.sites[1:]]})
    cohort = coordinator_cohort(config)
    server = METHODS[method](Setup(config, tasks_without_slices(cohort), 4, cohort.public())).server
    assert server.sites == len(config.sites) - 1


def test_no_slices_have_the_shapes_of_some(config):
    protocol = coordinator_cohort(config).protocols["B"]
    nothing = no_slices(protocol)
    assert len(nothing) == 0
    assert nothing.truth.shape[1:] == (1, 16, 16)
