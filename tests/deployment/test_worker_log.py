"""What a site's worker writes of its failures, and what if it cannot."""

import os
import stat
import sys

import pytest

from fedm2ct.deployment.folders import SiteFolder
from fedm2ct.deployment.worker import note_failure


@pytest.fixture
def site(tmp_path):
    folder = SiteFolder(tmp_path)
    folder.logs.mkdir()
    return folder


def test_a_failure_is_one_sentence_and_a_traceback_for_the_owner_only(site, capsys):
    note_failure(site, ValueError("patient 7"))
    assert capsys.readouterr().out.rstrip().endswith(" ValueError: patient 7")
    errors = site.logs / "errors.log"
    assert "ValueError: patient 7" in errors.read_text()
    assert stat.S_IMODE(errors.stat().st_mode) == 0o600


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a full disk")
def test_logs_on_a_full_disk_do_not_end_the_worker(site, monkeypatch):
    (site.logs / "errors.log").symlink_to("/dev/full")
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        note_failure(site, ValueError("patient 7"))
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.close()
