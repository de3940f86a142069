"""The run on a terminal: one line a round, and in detail what grew and what went wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from esper.leyline.telemetry.event import TelemetryEventType, parse_event_type
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

_EVENT = TelemetryEventType
_TROUBLE = frozenset(
    {
        _EVENT.GRADIENT_ANOMALY,
        _EVENT.RATIO_EXPLOSION_DETECTED,
        _EVENT.RATIO_COLLAPSE_DETECTED,
        _EVENT.VALUE_COLLAPSE_DETECTED,
        _EVENT.GRADIENT_PATHOLOGY_DETECTED,
        _EVENT.NUMERICAL_INSTABILITY_DETECTED,
        _EVENT.POLICY_UPDATE_REJECTED,
        _EVENT.REWARD_HACKING_SUSPECTED,
        _EVENT.MEMORY_WARNING,
    }
)
NUM_PLACES_SHOWN = 4
"""Places of growth named in a round's line."""


class ConsoleSink:
    """Prints rounds as they end.

    Args:
        level: `rounds` or `detail`.
        console: Where to print; standard error if None.
    """

    def __init__(self, level: Literal["rounds", "detail"] = "rounds", console: Console | None = None) -> None:
        self._level = level
        self._console = console or Console(stderr=True, highlight=False)
        self._update: Mapping[str, Any] = {}
        self._kept: Counter[str] = Counter()
        self._utilities: list[float] = []
        self._dropped: dict[tuple[str, int], int] = {}
        self._printers: Mapping[TelemetryEventType, Callable[[Mapping[str, Any]], None]] = {
            _EVENT.RUN_FINISHED: self._print_end,
            _EVENT.PART_LOST: self._print_loss,
            _EVENT.PART_RECOVERED: self._print_recovery,
            _EVENT.TOLARIA_ROLLBACK: self._print_rollback,
        }

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Take note of `batches`; print what is due."""
        rounds: list[Mapping[str, Any]] = []
        for batch in batches:
            identity = identity_of(batch)
            self._note_losses((identity.source, identity.incarnation), identity.dropped_events)
            event_type = parse_event_type(identity.event_type)
            if event_type is _EVENT.TOLARIA_BATCH_COMPLETED:
                rounds += batch.to_pylist()
            else:
                self._note(event_type, batch)
        for row in rounds:
            self._print_round(row)

    def close(self) -> None:
        """Nothing is to be released."""

    def _note(self, event_type: TelemetryEventType, batch: pa.RecordBatch) -> None:
        if event_type is _EVENT.TAMIYO_POLICY_UPDATE:
            self._update = batch.slice(batch.num_rows - 1).to_pylist()[0]
        elif event_type is _EVENT.EPISODE_OUTCOME:
            for row in batch.select(["kept", "utility"]).to_pylist():
                self._kept.update(row["kept"])
                self._utilities.append(row["utility"])
        elif event_type in self._printers:
            for row in batch.to_pylist():
                self._printers[event_type](row)
        elif self._level == "detail":
            self._note_detail(event_type, batch)

    def _print_loss(self, row: Mapping[str, Any]) -> None:
        again = f"; again: {row['lost']}" if row["lost"] else ""
        self._console.print(Text(f"  lost  {row['part']} {row['fault']} ({row['detail']}), remedy: {row['remedy']}{again}", style="yellow"))

    def _print_recovery(self, row: Mapping[str, Any]) -> None:
        after = f" after {row['recovered_in_sec']:.1f} s" if row["recovered_in_sec"] is not None else ""
        self._console.print(Text(f"  recovered  {row['part']} works again{after}", style="green"))

    def _print_rollback(self, row: Mapping[str, Any]) -> None:
        self._console.print(Text(f"  rollback  env {row['env_id']}: {row['reason']}", style="red"))

    def _note_detail(self, event_type: TelemetryEventType, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            if event_type is _EVENT.SEED_FOSSILIZED:
                gain = number(row["counterfactual"], "+.1f")
                self._console.print(
                    Text(f"  kept  env {row['env_id']} {row['slot_id']}:{row['blueprint_id']}  worth {gain} points", style="green")
                )
            elif event_type in _TROUBLE:
                detail = row.get("detail") or row.get("reason") or row.get("pattern") or row["message"]
                self._console.print(Text(f"  {event_type.name.lower()}  {detail}", style="yellow"))

    def _note_losses(self, producer: tuple[str, int], dropped_events: int) -> None:
        if dropped_events > self._dropped.get(producer, 0):
            self._dropped[producer] = dropped_events
            self._print_lost_events(f"{dropped_events} events of {producer[0]} so far")

    def _print_round(self, row: Mapping[str, Any]) -> None:
        utility = row["avg_utility"]
        if utility is None and self._utilities:
            utility = sum(self._utilities) / len(self._utilities)
        parts = [
            f"round {row['batch_idx']:>3}",
            f"episodes {row['episodes_completed']}/{row['total_episodes']}",
            f"{number(row['env_steps_per_sec'], '.0f')} env-steps/s",
            f"utility {number(utility, 'z.1f')}",
            f"accuracy {number(row['avg_accuracy'], '.1f')} %",
            f"explained variance {number(self._update.get('explained_variance'), 'z.2f')}",
            f"entropy {number(self._update.get('entropy'), 'z.2f')}",
            f"grew {self._describe_growth()}",
        ]
        self._console.print(Text("  ".join(parts)), soft_wrap=True)
        self._kept.clear()
        self._utilities.clear()

    def _describe_growth(self) -> str:
        if not self._kept:
            return "nothing"
        shown = [f"{place}×{count}" for place, count in self._kept.most_common(NUM_PLACES_SHOWN)]
        num_more = len(self._kept) - len(shown)
        return " ".join(shown) + (f" and {num_more} more" if num_more else "")

    def _print_end(self, row: Mapping[str, Any]) -> None:
        speed = number(row["env_steps_per_sec"], ".0f")
        amount = f"{row['episodes']} episodes, {row['env_steps']} env steps"
        line = f"{row['stop_reason']}: {amount} in {row['wall_sec']:.0f} s ({speed} env-steps/s)"
        self._console.print(Text(line, style="bold"))
        if row["num_events_dropped"]:
            self._print_lost_events(f"{row['num_events_dropped']} events in all")

    def _print_lost_events(self, which: str) -> None:
        self._console.print(Text(f"  telemetry lost  {which}: buffers were full, or could not encode them", style="red"))


def number(value: float | None, form: str) -> str:
    """Format a measurement; what was not measured is a dash."""
    return "–" if value is None else format(value, form)
