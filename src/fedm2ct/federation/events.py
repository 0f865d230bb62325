"""A round as lines of the log, of which every site has one, and as a line of the audit log."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedm2ct.federation.runlog import Event

if TYPE_CHECKING:
    from fedm2ct.federation.grid import Traffic
    from fedm2ct.federation.strategy import FinalReport, RoundReport


def round_events(report: "RoundReport", traffic: Mapping[str, "Traffic"]) -> list[Event]:
    """Return a round's lines of ``metrics.jsonl``: one a reply, sorted by site, then the server's.

    Parameters
    ----------
    report
        What became of the round.
    traffic
        By site, what went over the wire; a site that is not here has exchanged nothing.
    """
    number = report.round_index
    events = [
        _line("round", number, u.site, {**u.metrics, "samples": u.samples}, traffic)
        for u in report.uploads
    ]
    for kind, rejected in (("dropped", report.dropped), ("failed", report.failed)):
        events += [_line(kind, number, r.site, {"reason": r.reason}, traffic) for r in rejected]
    events.sort(key=lambda event: str(event["site"]))
    total: Event = {
        **report.aggregate.metrics,
        "event": "round",
        "round": number,
        "site": "server",
        "bytes_up": sum(t.bytes_up for t in traffic.values()),
        "bytes_down": sum(t.bytes_down for t in traffic.values()),
        "seconds": report.seconds,
    }
    return [*events, total]


def finish_events(
    final: "FinalReport", rounds: int, traffic: Mapping[str, "Traffic"]
) -> list[Event]:
    """Return the lines of the end, one for each site that has replied."""
    return [
        _line("finish", rounds, site, metrics, traffic)
        for site, metrics in sorted(final.metrics.items())
    ]


def audited_round(
    report: "RoundReport", traffic: Mapping[str, "Traffic"], checkpoint: str
) -> dict[str, Any]:
    """Return what the audit log says of a round.

    Parameters
    ----------
    report, traffic
        As in `round_events`.
    checkpoint
        SHA-256 of the file in which the round is about to be stored.
    """
    alpha = report.aggregate.metrics.get("alpha")
    outcomes = [
        (u.site, {"outcome": "abstained" if u.abstains else "accepted", "samples": u.samples})
        for u in report.uploads
    ]
    for outcome, rejected in (("refused", report.dropped), ("failed", report.failed)):
        outcomes += [(r.site, {"outcome": outcome, "reason": r.reason}) for r in rejected]
    replies = [
        {**_bytes(traffic, site), **about, "site": site, "received": report.received.get(site)}
        for site, about in sorted(outcomes, key=lambda item: item[0])
    ]
    return {
        "round": report.round_index,
        "nonce": report.nonce,
        "sent": report.sent,
        "replies": replies,
        "alpha": alpha if alpha is not None and math.isfinite(alpha) else None,
        "aggregate": report.fused,
        "checkpoint": checkpoint,
    }


def audited_finish(
    final: "FinalReport", rounds: int, traffic: Mapping[str, "Traffic"]
) -> dict[str, Any]:
    """Return what the audit log says of the end."""
    outcomes = [(site, {"outcome": "accepted"}) for site in final.metrics]
    outcomes += [(r.site, {"outcome": "failed", "reason": r.reason}) for r in final.failed]
    replies = [
        {**_bytes(traffic, site), **about, "site": site}
        for site, about in sorted(outcomes, key=lambda item: item[0])
    ]
    return {"round": rounds, "sent": final.sent, "replies": replies}


def _bytes(traffic: Mapping[str, "Traffic"], site: str) -> dict[str, int]:
    found = traffic.get(site)
    return {
        "bytes_up": 0 if found is None else found.bytes_up,
        "bytes_down": 0 if found is None else found.bytes_down,
    }


def _line(
    event: str,
    number: int,
    site: str,
    content: Mapping[str, object],
    traffic: Mapping[str, "Traffic"],
) -> Event:
    return {
        **content,
        "event": event,
        "round": number,
        "site": site,
        **_bytes(traffic, site),
        "seconds": traffic[site].seconds if site in traffic else 0.0,
    }
