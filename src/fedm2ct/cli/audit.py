"""``fedm2ct audit``: whether anybody has changed what a run says of itself."""

from pathlib import Path

import click


@click.group("audit", epilog="Example: fedm2ct audit verify runs/small")
def command() -> None:
    """Check the audit log of a run."""


@command.command("verify", epilog="Example: fedm2ct audit verify runs/small --head 3fa94c…")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--head",
    "heads",
    multiple=True,
    help="A hash that an earlier check has printed (or its start): it must still be in a log.",
)
def verify(run: Path, heads: tuple[str, ...]) -> None:
    """Follow the audit log of RUN, and hold its checkpoints against it.

    RUN is a run's folder, or that of one method and seed in it. Keep the heads that are printed
    where this machine cannot write: without one, lines that were left out at the end, or a log
    that was written anew, are not noticed.
    """
    from fedm2ct.errors import FedM2CTError
    from fedm2ct.federation.audit import FILE_NAME
    from fedm2ct.federation.audit_check import check_unit, missing_heads

    units = sorted(path.parent for path in run.rglob(FILE_NAME))
    if not units:
        raise FedM2CTError(f"{run}: holds no audit log ({FILE_NAME}); check the path")
    reports = [check_unit(unit) for unit in units]
    faults = [fault for report in reports for fault in report.faults]
    for head in missing_heads(reports, heads):
        faults.append(f"{head}: no log holds this hash any more; lines were left out or rewritten")
    for unit, report in zip(units, reports, strict=True):
        state = "NOT as it was written" if report.faults else "whole"
        click.echo(
            f"{unit.relative_to(run) if unit != run else unit.name}: {report.lines} lines, "
            f"{report.rounds} rounds, {state}\n  head {report.head or 'unknown'}"
        )
        for note in report.notes:
            click.echo(f"  note: {note}")
    for fault in faults:
        click.echo(f"  fault: {fault}", err=True)
    if faults:
        raise FedM2CTError(f"{run}: {len(faults)} fault(s) found; do not rely on this run")
