"""The short training at full size: what it shortens, and that no earlier record is lost."""

import json
import sys
from dataclasses import replace

import full_size
import pytest

from fedm2ct.federation.runlog import RunLog
from fedm2ct.pipeline.settings import load_setting


def test_only_slices_rounds_and_steps_are_fewer_and_no_record_is_lost(
    small_phantoms, monkeypatch, tmp_path, one_thread
):
    setting = load_setting("all-in-one", "tiny", phantoms=True)
    fewer = {"sites": setting.config.sites[:1]}
    setting = replace(setting, config=setting.config.model_copy(update=fewer))
    monkeypatch.setattr(full_size, "load_setting", lambda *_, **__: setting)
    results = tmp_path / "results.json"
    results.write_text('[{"date": "before"}]')
    options = {
        "--size": "tiny", "--methods": "fbp", "--slices": "3", "--rounds": "1", "--steps": "2",
        "--out": str(tmp_path / "run"), "--results": str(results),
    }  # fmt: skip
    given = [text for pair in options.items() for text in pair]
    monkeypatch.setattr(sys, "argv", ["full_size.py", *given])
    full_size.main()
    before, record = json.loads(results.read_text())
    assert before == {"date": "before"}
    assert set(record["methods"]["fbp"]["psnr_db"]) == {"A"}
    whole, ran = setting.config.model_dump(mode="json"), record["config"]
    assert [site["slices"] for site in ran["sites"]] == [3]
    assert ran["model"] == whole["model"]
    assert ran["training"] == {**whole["training"], "rounds": 1, "local_steps": 2}


def test_a_rounds_seconds_are_those_of_sites_and_server(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    lines = [("A", 1.0), ("B", 2.0), ("server", 0.5)]
    log.append({"event": "round", "round": 1, "site": s, "seconds": t} for s, t in lines)
    log.append([{"event": "finish", "round": 1, "site": "A", "seconds": 9.0}])
    assert full_size.rounds_of(log) == [{"sites": pytest.approx(3.0), "server": 0.5}]
