import json

import pytest

from fedm2ct.pipeline.costs import costs


def line(method, seed, round_index, site, up, event="round"):
    return {
        "method": method, "seed": seed, "round": round_index, "site": site, "event": event,
        "bytes_up": up, "bytes_down": 10 * up, "seconds": 0.5,
    }  # fmt: skip


def test_bytes_by_site_and_round_are_means_over_the_seeds():
    history = [
        line("m", 0, 1, "A", 100),
        line("m", 0, 1, "B", 7, "dropped"),
        line("m", 0, 1, "server", 107),
        line("m", 0, 2, "A", 300, "finish"),
        line("m", 1, 1, "A", 200),
        line("m", 1, 1, "B", 9, "failed"),
        line("other", 0, 1, "A", 1),
    ]
    found = costs(history)
    assert list(found) == ["m", "other"]
    assert found["m"]["seeds"] == 2
    a, b = found["m"]["sites"]["A"], found["m"]["sites"]["B"]
    assert (a["bytes_up"], a["bytes_down"], a["seconds"]) == (300, 3000, 0.75)
    assert a["rounds"] == {"1": {"bytes_up": 150, "bytes_down": 1500, "seconds": 0.5}}
    assert b["bytes_up"] == 8 and set(b["rounds"]) == {"1"}


def test_a_run_s_costs_are_what_its_log_says(finished):
    summary = json.loads((finished / "summary.json").read_text())
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert set(summary["costs"]) == {"local", "fedm2ct"}  # FBP exchanges nothing
    for method, found in summary["costs"].items():
        for key in ("bytes_up", "bytes_down"):
            mine = [e for e in lines if e["method"] == method]
            server = sum(e[key] for e in mine if e["site"] == "server")
            ends = sum(e[key] for e in mine if e["event"] == "finish")
            assert sum(s[key] for s in found["sites"].values()) == server + ends > 0
            rounds = [r[key] for s in found["sites"].values() for r in s["rounds"].values()]
            assert sum(rounds) == server
    up = {m: summary["costs"][m]["sites"]["A"]["bytes_up"] for m in summary["costs"]}
    assert up["local"] < up["fedm2ct"]


@pytest.mark.parametrize("key", ["costs", "audit"])
def test_the_summary_says_it(finished, key):
    assert json.loads((finished / "summary.json").read_text())[key]
