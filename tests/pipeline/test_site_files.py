"""What tells of a site's scans is in that site's folder and nowhere else, and is still of use."""

import json

from fedm2ct.pipeline.manifest import config_of, read_manifest
from fedm2ct.pipeline.site_files import read_roles

from ..runs import cli


def test_the_manifest_calls_a_site_s_scans_by_number(finished, patients):
    manifest = read_manifest(finished)
    assert manifest["patients"]["B"] == ["B-patient-1", "B-patient-2"]
    assert [e["scan"] for e in manifest["slices"]["B"]] == ["B-scan-1", "B-scan-2"]
    assert {e["patient"] for e in manifest["slices"]["B"]} == {"B-patient-1", "B-patient-2"}
    assert manifest["config"]["sites"][1]["scans"] == ["B-scan-1", "B-scan-2"]
    assert set(manifest["scans"]) == {f"{patients}/{name}.npz" for name in ("dan", "evelyn")}
    assert config_of(finished).sites[0].scans == ["A-scan-1"]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["config"] == manifest["config"]


def test_the_site_s_own_file_names_them(finished, patients):
    about = json.loads((finished / "sites" / "B" / "scans.json").read_text())
    names = [f"{patients}/{name}.npz" for name in ("bob", "cat")]
    assert [e["scan"] for e in about["slices"]] == names == list(about["scans"])
    assert len(about["patients"]) == 2
    for scan in about["scans"].values():
        assert len(scan["sha256"]) == 64 and scan["provenance"]["file"]


def test_all_roles_are_read_back(finished):
    roles = read_roles(finished, read_manifest(finished))
    assert set(roles) == {"A", "B", "test", "meta"}
    scans = [name for about in roles.values() for name in about["scans"]]
    assert len(set(scans)) == len(scans) == 5


def test_a_run_of_before_is_read_too(finished):
    """Its manifest held everything."""
    roles = read_roles(finished, read_manifest(finished))
    old = {
        "patients": {role: about["patients"] for role, about in roles.items()},
        "slices": {role: about["slices"] for role, about in roles.items()},
        "scans": {name: scan for a in roles.values() for name, scan in a["scans"].items()},
    }
    assert read_roles(finished / "nowhere", old) == roles


def test_a_site_s_file_that_is_gone_is_missed(patients, tmp_path, capsys, in_process, one_thread):
    from ..runs import write_config

    config = write_config(tmp_path / "tiny.toml", patients, methods=("fbp",))
    run = tmp_path / "run"
    assert cli("train", config, "--out", run) == 0
    (run / "sites" / "A" / "scans.json").unlink()
    capsys.readouterr()
    assert cli("train", config, "--out", run, "--resume") == 1
    assert "scans.json: is missing or damaged" in capsys.readouterr().err
