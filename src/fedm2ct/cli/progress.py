"""What a run shows while it works: one bar over all rounds and a line for each round done."""

from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from fedm2ct.config import RunConfig

_HEADER = (
    f"{'method':<10} {'seed':>4} {'round':>7} {'val PSNR':>9} {'loss':>7} {'alpha':>6} {'s':>6}"
)


class RunProgress:
    """A context manager; call it with every event of a run."""

    def __init__(self, config: RunConfig) -> None:
        self.rounds = config.training.rounds
        trained = [m for m in config.methods if m != "fbp"]
        self.bar = tqdm(
            total=len(trained) * len(config.seeds) * self.rounds, unit="round", smoothing=0.1
        )
        self.seen: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self.header = False

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar."""
        self.bar.close()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event."""
        kind = event.get("event")
        if kind == "note":
            self.bar.set_postfix_str(event["text"][:40])
        elif kind == "warning":
            self.bar.write(f"warning: {event['reason']}")
        elif kind in ("dropped", "failed"):
            self.bar.write(f"round {event['round']}: {event['site']} {kind}: {event['reason']}")
        elif kind == "start" and event.get("round"):
            self.bar.update(int(event["round"]))
        elif kind == "round":
            self._logged(event)

    def _logged(self, event: dict[str, Any]) -> None:
        """Collect a round's lines; the server's line is its last."""
        key = (event["job"], int(event["round"]))
        self.seen.setdefault(key, []).append(event)
        if event.get("site") == "server":
            self._row(key, self.seen.pop(key))
            self.bar.update(1)

    def _row(self, key: tuple[str, int], events: list[dict[str, Any]]) -> None:
        if not self.header:
            self.bar.write(_HEADER)
            self.header = True
        method, _, seed = key[0].partition("/seed-")
        psnr = _mean(events, "val_psnr_db")
        loss, alpha = _mean(events, "loss"), _mean(events, "alpha")
        seconds = sum(e.get("seconds") or 0.0 for e in events)
        self.bar.write(
            f"{method:<10} {seed:>4} {key[1]:>3}/{self.rounds:<3} {psnr:>9} {loss:>7} {alpha:>6} "
            f"{seconds:>6.1f}"
        )


def _mean(events: list[dict[str, Any]], name: str) -> str:
    values = [e[name] for e in events if isinstance(e.get(name), int | float)]
    return f"{sum(values) / len(values):.2f}" if values else "-"
