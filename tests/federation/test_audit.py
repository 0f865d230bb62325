"""The audit log: what it says, and that nothing in it can be changed unnoticed."""

import itertools
import json
from pathlib import Path

import pytest

from fedm2ct.federation.audit import BEGINNING, AuditError, AuditLog, entry_hash, read_chain
from fedm2ct.federation.audit_check import check_unit, missing_heads
from fedm2ct.federation.checkpoint import file_digest
from fedm2ct.files import StorageError

from .toy import CONFIG, ROUNDS, SEED, SITES, run_toy, same_state

N_LINES = ROUNDS + 2  # begin, the rounds, finish


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished run; not to be written to."""
    folder = tmp_path_factory.mktemp("audited")
    run_toy(folder)
    return folder


@pytest.fixture
def unit(written, tmp_path):
    """A copy of it."""
    for path in written.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(written)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path


def lines_of(folder):
    return (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(folder, lines):
    (folder / "audit.jsonl").write_bytes(b"".join(lines))


def test_every_round_is_told(written):
    entries = [json.loads(line) for line in lines_of(written)]
    assert [e["event"] for e in entries] == ["begin", *["round"] * ROUNDS, "finish"]
    assert [e["index"] for e in entries] == list(range(N_LINES))
    begin, first, end = entries[0], entries[1], entries[-1]
    assert (begin["fingerprint"], begin["seed"], begin["sites"]) == (CONFIG, SEED, list(SITES))
    assert begin["previous"] == BEGINNING
    log = [json.loads(line) for line in (written / "metrics.jsonl").read_text().splitlines()]
    for reply, line in zip(first["replies"], log[:3], strict=True):
        assert (reply["site"], reply["outcome"], reply["samples"]) == (line["site"], "accepted", 16)
        assert (reply["bytes_up"], reply["bytes_down"]) == (line["bytes_up"], line["bytes_down"])
    assert len({reply["received"] for reply in first["replies"]}) == 3
    for before, after in itertools.pairwise(entries[1:]):
        assert after["sent"] == before["aggregate"]  # what the next round starts from
        assert after["previous"] == before["hash"] == entry_hash(before)
    assert len({e["nonce"] for e in entries[1:-1]}) == ROUNDS
    assert end["round"] == ROUNDS and [r["site"] for r in end["replies"]] == list(SITES)
    path = written / "checkpoints" / f"round-{ROUNDS:04d}.safetensors"
    assert entries[-2]["checkpoint"] == file_digest(path)


def test_a_run_as_it_was_written_has_no_fault(written):
    report = check_unit(written)
    assert (report.lines, report.rounds, report.faults, report.notes) == (N_LINES, ROUNDS, (), ())
    assert report.head == json.loads(lines_of(written)[-1])["hash"]


def test_alpha_is_told(tmp_path):
    from fedm2ct.federation.method import Aggregate

    from .toy import ToyServer

    class Fusing(ToyServer):
        def aggregate(self, round_index, shared, uploads):
            fused = super().aggregate(round_index, shared, uploads)
            return Aggregate(fused.shared, {"alpha": 0.25 if round_index == 1 else float("nan")})

    run_toy(tmp_path, rounds=2, server=Fusing())
    assert [json.loads(line).get("alpha") for line in lines_of(tmp_path)] == [
        None,
        0.25,
        None,
        None,
    ]


CHANGES = {
    "a number": lambda line: line.replace(b'"samples":16', b'"samples":61', 1),
    "a site": lambda line: line.replace(b'"A"', b'"Q"', 1),
    "a space": lambda line: line.replace(b'":', b'": ', 1),
    "an escape": lambda line: line.replace(b'"event"', b'"\\u0065vent"', 1),
    "a key twice": lambda line: line.replace(b"{", b'{"event":"x",', 1),
    "a carriage return": lambda line: line[:-1] + b"\r\n",
    "a hash": lambda line: line.replace(b'"hash":"', b'"hash":"0', 1),
    "a cut": lambda line: line[: len(line) // 2] + b"\n",
    "no object": lambda line: b"[]\n",
    "nothing": lambda line: b"\n",
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("number", range(N_LINES))
def test_a_changed_line_is_found(unit, number, what):
    lines = lines_of(unit)
    changed = CHANGES[what](lines[number])
    if changed == lines[number]:
        pytest.skip("this line holds nothing of the kind")
    write_lines(unit, [*lines[:number], changed, *lines[number + 1 :]])
    (fault,) = check_unit(unit).faults
    assert f"audit.jsonl, line {number + 1}: is not as it was written" in fault


@pytest.mark.parametrize("number", range(N_LINES))
def test_a_changed_line_with_a_hash_to_match_is_found_by_the_next(unit, number):
    lines = lines_of(unit)
    entry = json.loads(lines[number]) | {"time": "2000-01-01T00:00:00+00:00"}
    entry["hash"] = entry_hash(entry)
    made = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    kept = [json.loads(line)["hash"] for line in lines]
    write_lines(unit, [*lines[:number], made, *lines[number + 1 :]])
    report = check_unit(unit)
    if number < N_LINES - 1:
        (fault,) = report.faults
        assert f"line {number + 2}: does not follow the line before it" in fault
    else:  # what a chain without a key cannot see; a hash kept elsewhere does
        assert report.faults == ()
        assert missing_heads([report], kept) == [kept[-1]]


@pytest.mark.parametrize("number", range(N_LINES - 1))
def test_a_removed_line_is_found(unit, number):
    lines = lines_of(unit)
    write_lines(unit, lines[:number] + lines[number + 1 :])
    (fault,) = check_unit(unit).faults
    assert f"line {number + 1}: does not follow" in fault


def test_lines_removed_at_the_end_are_found_by_a_head_that_was_kept(unit):
    head = check_unit(unit).head
    write_lines(unit, lines_of(unit)[:-1])
    report = check_unit(unit)
    assert report.faults == ()  # as the documents say
    assert missing_heads([report], [head]) == [head]
    assert missing_heads([report], [report.head, report.head[:12]]) == []


@pytest.mark.parametrize("number", range(N_LINES - 1))
def test_lines_that_changed_places_are_found(unit, number):
    lines = lines_of(unit)
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    write_lines(unit, lines)
    assert "does not follow" in check_unit(unit).faults[0]


@pytest.mark.parametrize("number", range(N_LINES + 1))
def test_an_inserted_line_is_found(unit, number):
    lines = lines_of(unit)
    write_lines(unit, [*lines[:number], lines[1], *lines[number:]])
    assert "does not follow" in check_unit(unit).faults[0]


def test_an_order_of_rounds_that_never_was_is_found(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("begin", {"round": 0})
    log.append("round", {"round": 2})
    (fault,) = check_unit(tmp_path).faults
    assert "line 2: tells of round 2 after round 0" in fault


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_poisoned_checkpoint_is_found_although_its_own_sum_is_right(unit):
    from fedm2ct.federation.storage import load_tensors, save_tensors

    path = unit / "checkpoints" / f"round-{ROUNDS:04d}.safetensors"
    tensors, description = load_tensors(path)
    save_tensors(path, {n: -t for n, t in tensors.items()}, description)
    (fault,) = check_unit(unit).faults
    assert f"{path}: is not the file that the audit log speaks of" == fault


def test_a_checkpoint_of_nobody_s_is_found(unit):
    good = unit / "checkpoints" / f"round-{ROUNDS:04d}.safetensors"
    (unit / "checkpoints" / "round-0009.safetensors").write_bytes(good.read_bytes())
    (fault,) = check_unit(unit).faults
    assert "round-0009.safetensors: the audit log knows of no such checkpoint" in fault


def test_the_last_checkpoint_is_missed(unit):
    (unit / "checkpoints" / f"round-{ROUNDS:04d}.safetensors").unlink()
    (fault,) = check_unit(unit).faults
    assert "is not there, although the log ends with its round" in fault


def test_a_log_that_is_gone_is_missed(unit):
    (unit / "audit.jsonl").unlink()
    assert "there is no audit log" in check_unit(unit).faults[0]


def test_a_resumed_run_goes_on_with_the_chain(tmp_path, written):
    run_toy(tmp_path, rounds=2)
    before = lines_of(tmp_path)
    run_toy(tmp_path, resume=True)
    lines = lines_of(tmp_path)
    assert lines[: len(before)] == before
    told = [(e["event"], e["round"]) for e in map(json.loads, lines[len(before) :])]
    assert told == [("resume", 2), ("round", 3), ("round", 4), ("finish", 4)]
    assert check_unit(tmp_path).faults == ()


def test_rounds_that_are_done_again_are_told_again(tmp_path):
    run_toy(tmp_path, rounds=3)
    spoil(tmp_path / "checkpoints" / "round-0003.safetensors")
    result, _, events = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    (warning,) = [e["reason"] for e in events if e["event"] == "warning"]
    assert "is not the file that the audit log speaks of" in warning
    told = [(e["event"], e["round"]) for e in map(json.loads, lines_of(tmp_path))]
    assert told[5:7] == [("resume", 2), ("round", 3)]
    assert check_unit(tmp_path).faults == ()


def test_half_a_line_is_dropped_with_a_notice_and_the_chain_goes_on(tmp_path):
    run_toy(tmp_path, rounds=2)
    with (tmp_path / "audit.jsonl").open("ab") as stream:
        stream.write(lines_of(tmp_path)[-1][:40])
    assert check_unit(tmp_path).faults == (f"{tmp_path / 'audit.jsonl'}: ends in half a line",)
    _, _, events = run_toy(tmp_path, resume=True)
    (warning,) = [e["reason"] for e in events if e["event"] == "warning"]
    assert "audit.jsonl: the last line was cut off by a crash and is dropped" in warning
    assert check_unit(tmp_path).faults == ()


def test_a_run_whose_log_was_tampered_with_is_not_resumed(tmp_path):
    run_toy(tmp_path, rounds=2)
    lines = lines_of(tmp_path)
    write_lines(tmp_path, [lines[0], *lines[2:]])
    with pytest.raises(AuditError, match="line 2: does not follow"):
        run_toy(tmp_path, resume=True)
    write_lines(tmp_path, lines)
    run_toy(tmp_path, resume=True)


def test_a_log_that_is_gone_begins_anew_and_says_so(tmp_path):
    run_toy(tmp_path, rounds=2)
    (tmp_path / "audit.jsonl").unlink()
    _, _, events = run_toy(tmp_path, resume=True)
    (warning,) = [e["reason"] for e in events if e["event"] == "warning"]
    assert "audit.jsonl is missing: the audit of this run begins anew" in warning
    told = [(e["event"], e["round"]) for e in map(json.loads, lines_of(tmp_path))]
    assert told[:2] == [("resume", 2), ("round", 3)]
    assert check_unit(tmp_path).faults == ()


def test_a_poisoned_checkpoint_is_not_resumed_from(tmp_path, written):
    """Good sums, good names, other weights: the round before is gone on from, to the same bits."""
    from fedm2ct.federation.storage import load_tensors, save_tensors

    run_toy(tmp_path, rounds=3)
    path = tmp_path / "checkpoints" / "round-0003.safetensors"
    tensors, description = load_tensors(path)
    save_tensors(path, {n: 1e3 * t for n, t in tensors.items()}, description)
    result, _, _ = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    last = f"checkpoints/round-{ROUNDS:04d}.safetensors"
    assert same_state(load_tensors(tmp_path / last)[0], load_tensors(written / last)[0])


def test_a_later_checkpoint_of_nobody_s_is_not_resumed_from(tmp_path):
    """It says that it is this run's and of a round that is still to come."""
    from fedm2ct.federation.storage import load_tensors, save_tensors

    run_toy(tmp_path, rounds=2)
    files = [tmp_path / "checkpoints" / "round-{:04d}.safetensors"]
    files += [tmp_path / "sites" / site / "private-{:04d}.safetensors" for site in SITES]
    for pattern in files:
        tensors, description = load_tensors(Path(str(pattern).format(2)))
        description |= {"round": 3} | ({"trained": {}} if "trained" in description else {})
        save_tensors(Path(str(pattern).format(3)), tensors, description)
    result, _, events = run_toy(tmp_path, resume=True)
    assert result.resumed_from == 2
    (warning,) = [e["reason"] for e in events if e["event"] == "warning"]
    assert "round-0003.safetensors is not the file that the audit log speaks of" in warning


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    import errno
    import os

    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("begin", {"round": 0})
    before, head = lines_of(tmp_path), log.head

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"audit\.jsonl: the disk is full"):
            log.append("round", {"round": 1})
    assert lines_of(tmp_path) == before and log.head == head
    log.append("round", {"round": 1})
    assert len(read_chain(log.path).entries) == 2


def test_a_line_is_on_the_disk_before_the_checkpoint_it_speaks_of(tmp_path, monkeypatch):
    from fedm2ct.federation import checkpoint

    real = checkpoint.write_atomically

    def checking(path, data):
        noted = read_chain(tmp_path / "audit.jsonl").checkpoints()
        real(path, data)
        assert noted[int(path.stem.rpartition("-")[2])] == file_digest(path)

    monkeypatch.setattr(checkpoint, "write_atomically", checking)
    run_toy(tmp_path)
