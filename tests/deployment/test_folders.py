"""Folders, keys, settings: what `init`, `join` and `register` leave, and what they refuse."""

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedm2ct.deployment import certificates, registry
from fedm2ct.deployment.folders import CoordinatorFolder, SiteFolder
from fedm2ct.deployment.proxy import FLEET_CALLS
from fedm2ct.errors import FedM2CTError

from ..runs import cli


@pytest.fixture
def coordinator(tmp_path):
    place = tmp_path / "coordinator"
    assert cli("coordinator", "init", place, "--host", "ct.example.org") == 0
    return CoordinatorFolder(place)


@pytest.fixture
def site(tmp_path):
    place = tmp_path / "site"
    assert cli("site", "init", place, "--name", "A") == 0
    return SiteFolder(place)


def test_what_is_secret_is_readable_by_its_owner_only(coordinator, site):
    secret = [coordinator.authority_key, coordinator.key, coordinator.secret]
    for path in (*secret, site.private_key, site.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (coordinator.root, coordinator.keys, site.root, site.private_key.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_what_a_site_hands_over_holds_no_private_key(coordinator, site):
    private = site.private_key.read_bytes()
    assert load_ssh_private_key(private, None)
    handed = site.public_key("A").read_bytes()
    assert b"PRIVATE" not in handed
    assert b"PRIVATE" not in coordinator.invitation.read_bytes()


def test_the_certificate_names_the_host_and_the_loopback_interface(coordinator):
    loaded = x509.load_pem_x509_certificate(coordinator.certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ct.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    authority = x509.load_pem_x509_certificate(coordinator.authority.read_bytes())
    loaded.verify_directly_issued_by(authority)
    assert 800 < certificates.days_left(coordinator.certificate) <= 825


def test_a_renewed_certificate_is_of_the_same_authority(coordinator, capsys):
    before = coordinator.certificate.read_bytes()
    assert cli("coordinator", "renew", coordinator.root) == 0
    after = coordinator.certificate.read_bytes()
    assert after != before
    authority = x509.load_pem_x509_certificate(coordinator.authority.read_bytes())
    x509.load_pem_x509_certificate(after).verify_directly_issued_by(authority)


def test_the_proxy_passes_fleet_calls_and_nothing_else(coordinator):
    text = coordinator.proxy_config.read_text()
    locations = [line.strip() for line in text.splitlines() if line.strip().startswith("location")]
    assert locations[1] == "location / { return 403; }"
    assert locations[0] == f"location ~ ^/v1/fleet/({'|'.join(FLEET_CALLS)})$ {{"
    assert text.count("proxy_pass ") == 1
    assert "register" not in "".join(locations)
    assert "server 127.0.0.1:9091;" in text
    assert "proxy_ssl_verify on;" in text


def test_every_fleet_call_of_the_installed_flwr_is_known():
    """A new flwr may have new calls: each must be looked at before it is passed on."""
    from flwr.superlink.routers.fleet.router import router

    calls = {route.path.removeprefix("/v1/fleet/") for route in router.routes}
    assert calls == {*FLEET_CALLS, "register-node", "unregister-node"}


@pytest.mark.parametrize("kind", ["coordinator", "site"])
def test_init_writes_over_nothing(coordinator, site, kind, capsys):
    place = coordinator.root if kind == "coordinator" else site.root
    extra = ["--host", "x"] if kind == "coordinator" else ["--name", "A"]
    assert cli(kind, "init", place, *extra) == 1
    assert "choose another folder" in capsys.readouterr().err


def test_a_path_that_nginx_would_misread_is_refused(tmp_path, capsys):
    assert cli("coordinator", "init", tmp_path / "a b;", "--host", "x") == 1
    assert "use a path of letters" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["server", "../x", "a/b", "-x", "x" * 41])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path, name, capsys):
    assert cli("site", "init", tmp_path / "s", f"--name={name}") == 1
    assert "cannot name a folder" in capsys.readouterr().err


def test_the_settings_that_init_writes_can_be_read(coordinator, site):
    assert coordinator.settings().host == "ct.example.org"
    assert coordinator.settings().proxy
    assert site.settings().name == "A"
    assert site.settings().public is None
    text = site.settings_file.read_text()
    site.settings_file.write_text(text.replace("# [", "[").replace("# scans", "scans"))
    site.settings_file.write_text(site.settings_file.read_text().replace("# minimum", "minimum"))
    assert site.settings().public.scans == ["/data/public-1.nii.gz"]
    assert site.settings().privacy.minimum_slice_noise == 1.0


def test_a_wrong_field_is_named(site):
    site.settings_file.write_text(site.settings_file.read_text() + "colour = 3\n")
    with pytest.raises(FedM2CTError, match=r"site\.toml: field 'colour'"):
        site.settings()


def test_settings_that_cannot_be_read_are_not_called_missing(site):
    site.settings_file.unlink()
    with pytest.raises(FedM2CTError, match=r"site\.toml: is missing; run fedm2ct site init first"):
        site.settings()
    site.settings_file.mkdir()
    with pytest.raises(FedM2CTError, match=r"site\.toml: cannot be read \(Is a directory\)"):
        site.settings()


def test_join_takes_the_authority_and_says_when_nobody_answers(coordinator, site, capsys):
    text = coordinator.invitation.read_text().replace("ct.example.org:8443", "127.0.0.1:9")
    invitation = site.root.parent / "invitation.toml"
    invitation.write_text(text)
    assert cli("site", "join", site.root, invitation) == 1
    captured = capsys.readouterr()
    assert "127.0.0.1:9: does not answer" in captured.err
    fingerprint = certificates.certificate_fingerprint(coordinator.authority.read_bytes())
    assert f"Authority: {fingerprint}" in captured.out
    assert fingerprint in text
    assert site.authority.read_bytes() == coordinator.authority.read_bytes()


def test_a_damaged_invitation_is_refused(coordinator, site):
    coordinator.invitation.write_text(coordinator.invitation.read_text().replace("MII", "MIX"))
    assert cli("site", "join", site.root, coordinator.invitation) == 1
    assert not site.authority.exists()


def test_a_site_that_has_not_joined_is_told_so(site, capsys):
    assert cli("site", "up", site.root) == 1
    assert "run fedm2ct site join first" in capsys.readouterr().err
    assert cli("site", "status", site.root) == 1
    assert "not joined yet" in capsys.readouterr().out


class TestRegistry:
    def test_a_private_key_is_sent_back(self, coordinator, site, capsys):
        assert cli("coordinator", "register", coordinator.root, "A", site.private_key) == 1
        assert "must never leave its site" in capsys.readouterr().err
        assert not registry.registered_keys(coordinator)

    def test_a_key_cannot_stand_for_two_sites(self, coordinator, site):
        key = site.public_key("A")
        registry.register(coordinator, "A", key)
        registry.register(coordinator, "A", key)
        with pytest.raises(FedM2CTError, match="is the key of site A"):
            registry.register(coordinator, "B", key)

    def test_a_site_does_not_change_its_key_silently(self, coordinator, site, tmp_path):
        registry.register(coordinator, "A", site.public_key("A"))
        certificates.make_site_key(tmp_path / "new", tmp_path / "new.pub")
        with pytest.raises(FedM2CTError, match="registered with another key") as caught:
            registry.register(coordinator, "A", tmp_path / "new.pub")
        command = str(caught.value).rpartition("fedm2ct ")[2]
        assert cli(*command.split()) == 0
        registry.register(coordinator, "A", tmp_path / "new.pub")

    @pytest.mark.parametrize("text", ["hello", "ssh-unheard-of AAAA"])
    def test_what_is_no_key_is_refused(self, coordinator, tmp_path, text):
        (tmp_path / "x.pub").write_text(text)
        with pytest.raises(FedM2CTError, match="is no public key"):
            registry.register(coordinator, "A", tmp_path / "x.pub")

    def test_flowers_list_follows_the_files(self, coordinator, site, tmp_path):
        flower = Flower()
        flower.known[b"stranger"] = 1
        registry.register(coordinator, "A", site.public_key("A"))
        assert registry.bring_in_line(coordinator, flower) == {"A": 2}
        assert registry.registered_nodes(coordinator) == {"A": 2}
        assert b"stranger" not in flower.known
        assert registry.bring_in_line(coordinator, flower) == {"A": 2}
        flower.known = {}  # its database was lost
        assert registry.bring_in_line(coordinator, flower) == {"A": 3}
        registry.remove(coordinator, "A")
        assert registry.bring_in_line(coordinator, flower) == {}
        assert not flower.known

    @pytest.mark.parametrize("name", ["Z", "server", "a b"])
    def test_a_bad_file_is_told_once_and_stops_nothing(
        self, coordinator, site, flower_up, name, tmp_path
    ):
        look, told, flower = flower_up
        bad = coordinator.sites / f"{name}.pub"
        if name == "Z":
            bad.write_text("hello")
        else:  # a key, but no site's name
            certificates.make_site_key(tmp_path / "new", bad)
        look()
        registry.register(coordinator, "A", site.public_key("A"))
        look()
        look()
        registry.remove(coordinator, "A")
        look()
        assert not flower.known
        assert [text for text in told if name in text] == [told[0]]
        assert told[0].startswith(f"site {name} is passed over: ")
        assert (str(bad) in told[0]) == (name == "Z")
        assert told[1:] == ["site A is registered", "site A is refused from now on"]

    def test_the_status_names_a_bad_file(self, coordinator, site, flower_up, capsys):
        (coordinator.sites / "Z.pub").write_text("hello")
        registry.register(coordinator, "A", site.public_key("A"))
        assert cli("coordinator", "status", coordinator.root) == 1  # the services are not up
        said = capsys.readouterr().out
        assert f"site Z is passed over: {coordinator.sites / 'Z.pub'}: is no public key" in said
        assert "site A        not connected" in said

    def test_a_site_is_said_to_be_refused_when_it_is(self, coordinator, site, flower_up):
        look, told, flower = flower_up
        registry.register(coordinator, "A", site.public_key("A"))
        look()
        registry.remove(coordinator, "A")
        flower.reachable = False
        look()
        assert flower.known and told == ["site A is registered"]
        flower.reachable = True
        look()
        assert not flower.known and told[1:] == ["site A is refused from now on"]


class Flower:
    """Flower's list of keys."""

    def __init__(self):
        self.known, self.count, self.reachable = {}, 1, True

    def nodes(self):
        from fedm2ct.federation.control import Node

        if not self.reachable:
            raise FedM2CTError("the coordinator's SuperLink cannot be reached")
        return [Node(number, key, False) for key, number in self.known.items()]

    def register(self, name, key):
        from fedm2ct.federation.control import public_key_bytes

        self.count += 1
        self.known[public_key_bytes(key)] = self.count
        return self.count

    def unregister(self, node_id):
        self.known = {k: n for k, n in self.known.items() if n != node_id}

    def close(self):
        pass


@pytest.fixture
def flower_up(coordinator, monkeypatch):
    """What `coordinator up` does every few seconds, what it says, and the list that it keeps."""
    from fedm2ct.deployment import coordinator as services

    flower, told = Flower(), []
    monkeypatch.setattr("fedm2ct.federation.control.Control", lambda *_: flower)
    monkeypatch.setattr(services, "_LOOK_S", 0.0)
    monkeypatch.setattr(services, "_START_LOOK_S", 0.0)
    return services._Registrar(coordinator, coordinator.settings(), told.append), told, flower


def test_a_server_that_is_not_up_is_told_with_a_command_that_can_be_typed(coordinator, capsys):
    text = coordinator.settings_file.read_text()
    coordinator.settings_file.write_text(text.replace("_port = 9091", "_port = 9"))
    assert cli("coordinator", "status", coordinator.root) == 1
    assert "start it with: fedm2ct coordinator up FOLDER" in capsys.readouterr().out
