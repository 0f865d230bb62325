"""Benchmark of the CT operators against other libraries; the page is made from its numbers.

    make bench                                            # installs the other libraries, runs all
    python benchmarks/operators.py --sizes small          # what is installed, the small size
    python benchmarks/operators.py --sizes parallel       # parallel beam, large; not part of all
    python benchmarks/operators.py --page-only            # the page alone

Every library and operation runs in a process of its own, which first checks that what it computes
is right. Numbers go to ``benchmarks/results/operators.json``, ``docs/operators-benchmark.md`` is
made from them. Processes run one after the other; leave the machine alone meanwhile.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from operators_cases import OPERATIONS, SETUPS
from operators_memory import ENVIRONMENT, OPERATORS
from operators_page import page
from operators_peers import LIBRARIES

from fedm2ct.files import write_atomically
from fedm2ct.pipeline.provenance import provenance

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("operators_measure.py")
RESULTS = ROOT / "benchmarks" / "results" / "operators.json"
PAGE = ROOT / "docs" / "operators-benchmark.md"
SIZES = ("small", "big")
MATRIX_SIZES = ("tiny", "small")
"""Sizes whose sparse matrix is small; the others take gigabytes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    if not options.page_only:
        results = run(options)
        write_atomically(options.out, json.dumps(results, indent=1).encode())
        print(f"Numbers: {options.out}")
    try:
        stored = json.loads(options.out.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"Error: {options.out}: cannot be read ({error})", file=sys.stderr)
        return 1
    write_atomically(options.page, page(stored).encode())
    print(f"Page: {options.page}")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that is asked for and installed."""
    begin = time.perf_counter()
    found, missing = installed(options.libraries)
    for name, reason in missing.items():
        print(f"{name}: left out, {reason}", flush=True)
    rows = [row for spec in specs(options, list(found)) for row in measured(spec, options.timeout)]
    sizes = options.sizes
    return {
        **provenance(),
        "setups": {name: SETUPS[name].title for name in sizes},
        "libraries": {n: {"title": LIBRARIES[n].title, "versions": v} for n, v in found.items()},
        "missing": missing,
        "operations": with_ratios(rows),
        "first_calls": first_calls(sizes[0], options.timeout) if options.first_calls else [],
        "autograd_memory": autograd_memory(sizes, options) if options.memory else [],
        "seconds": time.perf_counter() - begin,
    }


def installed(names: Sequence[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the versions of the libraries that are there, and why the others are not."""
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = {p: importlib.metadata.version(p) for p in LIBRARIES[name].packages}
        except importlib.metadata.PackageNotFoundError as error:
            missing[name] = f"{error.name} is not installed"
    return found, missing


def specs(options: argparse.Namespace, libraries: Sequence[str]) -> Iterator[Row]:
    """Return what each process is to measure."""
    for size in options.sizes:
        for operation in options.operations:
            for name in libraries:
                library = LIBRARIES[name]
                too_big = name == "sparse" and size not in MATRIX_SIZES and not options.matrix
                if too_big or not library.supports(operation, SETUPS[size]):
                    continue
                threads = {"any": [options.threads], "one": [[1]]}.get(
                    library.threads, [[t] for t in options.threads]
                )
                for each in threads:
                    yield {
                        "task": "operation",
                        "setup": size,
                        "operation": operation,
                        "library": name,
                        "batches": options.batches,
                        "threads": each,
                        "repeats": options.repeats,
                        "seconds": options.seconds,
                    }


def measured(spec: Row, timeout: float) -> list[Row]:
    """Measure an operation of a library; return a row for each batch and number of threads.

    A row's ``status`` is ``ok``, or says how the process ended before it got there.
    """
    environment = LIBRARIES[spec["library"]].environment(max(spec["threads"]))
    answers, failure = in_process(spec, timeout, environment)
    known = {k: spec[k] for k in ("setup", "operation", "library")}
    check = next((a["check"] for a in answers if "check" in a), None)
    found = {(a["batch"], a["threads"]): a for a in answers if "batch" in a}
    rows = []
    for batch in spec["batches"]:
        for threads in spec["threads"]:
            row = {**known, "batch": batch, "threads": threads, "check": check}
            answer = found.get((batch, threads))
            unfinished = {"status": failure or "gave no result"}
            rows.append({**row, **({"status": "ok", **answer} if answer else unfinished)})
    _report(spec, rows)
    return rows


def _report(spec: Row, rows: list[Row]) -> None:
    check = ", ".join(f"{name} {value:.1e}" for name, value in (rows[0]["check"] or {}).items())
    print(f"{spec['setup']} {spec['operation']} {spec['library']}: {check}", flush=True)
    for row in rows:
        found = f"{row['seconds'] * 1e3:.1f} ms" if row["status"] == "ok" else row["status"]
        print(f"  batch {row['batch']}, threads {row['threads']}: {found}", flush=True)


def in_process(
    spec: Row, timeout: float, environment: dict[str, str]
) -> tuple[list[Row], str | None]:
    """Run the worker; return the lines that it has written, and how it failed if it did."""
    threads = {"OMP_NUM_THREADS": str(max(spec.get("threads", [1])))}
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        rows.touch()
        failure = None
        with log.open("wb") as stream:
            try:
                done = subprocess.run(
                    [sys.executable, str(WORKER), json.dumps(spec), str(rows)],
                    env={**os.environ, **threads, **environment},
                    stdout=stream,
                    stderr=stream,
                    timeout=timeout,
                )
                if done.returncode:
                    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
                    last = next((line for line in reversed(said) if line.strip()), "")
                    failure = f"ended with {done.returncode}: {last[:200]}"
            except subprocess.TimeoutExpired:
                failure = f"stopped after {timeout:g} s"
        lines = rows.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], failure


def with_ratios(rows: list[Row]) -> list[Row]:
    """Add to each row its time over that of the fastest other library in the same case.

    A library that has no threads competes with what it does on one.
    """

    def rival(row: Row, candidate: Row) -> bool:
        library = LIBRARIES[candidate["library"]]
        same = all(row[k] == candidate[k] for k in ("setup", "operation", "batch"))
        alike = candidate["threads"] == row["threads"] or library.threads == "one"
        return same and alike and not library.ours and candidate["status"] == "ok"

    result = []
    for row in rows:
        rivals = [r for r in rows if rival(row, r)]
        if row["status"] != "ok" or not rivals:
            result.append(row)
            continue
        fastest = min(rivals, key=lambda r: float(r["seconds"]))
        ratio = row["seconds"] / fastest["seconds"]
        result.append({**row, "fastest_peer": fastest["library"], "ratio_to_fastest_peer": ratio})
    return result


def first_calls(setup: str, timeout: float) -> list[Row]:
    """Time our first calls in a fresh process: nothing compiled yet, and compiled before."""
    ours = ["fedm2ct", "fedm2ct-distance-driven"]
    spec = {"task": "first-calls", "setup": setup, "libraries": ours}
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "warm"):
            begin = time.perf_counter()
            rows, failure = in_process(spec, timeout, {"NUMBA_CACHE_DIR": cache})
            whole = time.perf_counter() - begin
            if failure:
                rows.append({"status": failure})
            found += [{"cache": state, "process_seconds": whole, **row} for row in rows]
            print(f"first calls, {state} cache: {whole:.1f} s, {failure or 'ok'}", flush=True)
    return found


def autograd_memory(sizes: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """Measure the memory of forward and backward passes through our operators."""
    found = []
    for size in sizes:
        for operator in OPERATORS:
            for batch in options.batches:
                known = {"setup": size, "operator": operator, "batch": batch}
                spec = {"task": "autograd-memory", "threads": options.threads, **known}
                rows, failure = in_process(spec, options.timeout, ENVIRONMENT)
                found.append({**known, "status": failure or "ok", **(rows[0] if rows else {})})
                print(f"memory: {found[-1]}", flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SETUPS), default=list(SIZES))
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7, help="of each call at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="stop repeating after so many")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of one process")
    parser.add_argument("--matrix", action="store_true", help="the sparse matrix at all sizes")
    parser.add_argument("--no-first-calls", dest="first_calls", action="store_false")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--page-only", action="store_true", help="make the page from the numbers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
