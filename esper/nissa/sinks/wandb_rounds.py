"""Rounds of a run as points to log, the same whatever came in which batch: a living run and its stored telemetry give one picture."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from esper.leyline.telemetry.event import TelemetryEventType
from esper.nissa.sinks.wandb_keys import LOGGED_ROW_BY_ROW, STEP_KEY, points, training_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Point = tuple[int, "dict[str, float]"]
"""Env steps, and key → value."""
Tables = dict[TelemetryEventType, pa.Table]

LATE_SEC = 15.0
"""How long, by the time of events, a round waits for what belongs to it: a process ships what it holds with its next sign of life."""
_EPOCHS = (TelemetryEventType.TOLARIA_EPOCH_COMPLETED, TelemetryEventType.REWARD_COMPUTED)
"""Told once by every env in each of its steps."""
_KEY_COLUMNS: Mapping[TelemetryEventType, tuple[str, ...]] = {
    **dict.fromkeys(_EPOCHS, ("episode_idx", "inner_epoch", "env_id")),
    TelemetryEventType.EPISODE_OUTCOME: ("episode_idx", "env_id"),
    TelemetryEventType.TAMIYO_POLICY_UPDATE: ("batch", "ppo_update_idx"),
    TelemetryEventType.TOLARIA_BATCH_COMPLETED: ("batch_idx",),
}
"""What tells rows of one type apart: an episode whose worker was lost is told a second time."""


@dataclass(frozen=True, slots=True)
class LoggedRound:
    """One round's points."""

    number: int
    """−1 for what belongs to no round."""
    env_steps: int
    """Taken in the run so far."""
    points: tuple[Point, ...]
    """Every epoch's means, then the updates and the round itself."""


@dataclass(frozen=True, slots=True)
class _End:
    group_id: str
    number: int
    env_steps: int | None
    time: datetime | None
    """When it was told; None takes in all that belongs to no group."""


class Rounds:
    """Gathers rows until their round has ended. Rows of no group go with the round in which they were told.

    Args:
        last_logged: Number of the last round that was logged before; up to it, what is played again is left out.
        env_steps: Taken up to there.
    """

    def __init__(self, last_logged: int, env_steps: int) -> None:
        self._last_logged = last_logged
        self._env_steps = env_steps
        self._groups: dict[str, dict[TelemetryEventType, list[pa.Table]]] = defaultdict(lambda: defaultdict(list))
        self._loose: dict[TelemetryEventType, list[pa.Table]] = defaultdict(list)
        self._ends: list[_End] = []
        self._closed: set[str] = set()
        self._newest: datetime | None = None

    def add(self, event_type: TelemetryEventType, table: pa.Table) -> None:
        """Take in rows of one type; what belongs to evaluation, or to a round that is closed, is left out."""
        rows = training_rows(table)
        groups = rows.column("group_id")
        for group_id in pc.unique(groups).to_pylist():
            if group_id in self._closed:
                continue
            own = rows.filter(pc.equal(groups, group_id))
            (self._groups[group_id] if "/" in group_id else self._loose)[event_type].append(own)
            if event_type is TelemetryEventType.TOLARIA_BATCH_COMPLETED:
                found = own.select(["batch_idx", STEP_KEY, "timestamp"]).to_pylist()
                self._ends += [_End(group_id, row["batch_idx"], row[STEP_KEY], row["timestamp"]) for row in found]
                self._ends.sort(key=lambda end: end.number)
        times = [pc.max(table.column("timestamp")).as_py(), self._newest]
        self._newest = max((time for time in times if time is not None), default=None)

    def ended(self) -> Iterator[LoggedRound]:
        """Yield, once, the rounds that ended long enough ago."""
        while self._ends and self._newest is not None:
            time = self._ends[0].time
            if time is not None and self._newest - time < timedelta(seconds=LATE_SEC):
                return
            yield from self._close(self._ends.pop(0))

    def rest(self) -> Iterator[LoggedRound]:
        """Yield what is left at the end of the run: ended rounds, those that were learned from, and what belongs to no round.

        A round that was broken off is left out, since a run that goes on plays it again.
        """
        for end in (*self._ends, *self._learned()):
            yield from self._close(end)
        self._ends.clear()
        loose = _joined(self._loose)
        self._loose.clear()
        if loose:
            yield self._describe(_End("", -1, None, None), loose)

    def _learned(self) -> list[_End]:
        ended = {end.group_id for end in self._ends}
        ends = []
        for group_id, tables in self._groups.items():
            updates = tables.get(TelemetryEventType.TAMIYO_POLICY_UPDATE)
            if updates and group_id not in ended:
                last = pa.concat_tables(updates).select(["batch", STEP_KEY]).to_pylist()[-1]
                ends.append(_End(group_id, last["batch"], last[STEP_KEY], None))
        return sorted(ends, key=lambda end: end.number)

    def _close(self, end: _End) -> Iterator[LoggedRound]:
        is_grouped, is_repeated = "/" in end.group_id, end.number <= self._last_logged
        tables = _joined(self._groups.pop(end.group_id, {}))
        if is_grouped:
            self._closed.add(end.group_id)
        if not (is_grouped and is_repeated):
            for event_type, rows in self._take_loose(end).items():
                both = [tables[event_type], rows] if event_type in tables else [rows]
                tables[event_type] = pa.concat_tables(both, promote_options="permissive")
        if not is_repeated:
            self._last_logged = end.number
            yield self._describe(end, tables)

    def _take_loose(self, end: _End) -> Tables:
        loose = _joined(self._loose)
        self._loose.clear()
        if end.time is None:
            return loose
        taken: Tables = {}
        for event_type, rows in loose.items():
            is_before = pc.less_equal(rows.column("timestamp"), pa.scalar(end.time, rows.schema.field("timestamp").type))
            before, after = rows.filter(is_before), rows.filter(pc.invert(is_before))
            if before.num_rows:
                taken[event_type] = before
            if after.num_rows:
                self._loose[event_type].append(after)
        return taken

    def _describe(self, end: _End, tables: Tables) -> LoggedRound:
        tables = {event_type: _latest(event_type, tables[event_type]) for event_type in TelemetryEventType if event_type in tables}
        epochs = _epochs({event_type: _placed(tables[event_type]) for event_type in _EPOCHS if event_type in tables})
        num_steps = sum(size for size, _ in epochs)
        last = self._env_steps + num_steps if end.env_steps is None else end.env_steps
        step, found = last - num_steps, []
        for size, values in epochs:
            step += size
            found.append((step, values))
        summary: dict[str, float] = {}
        for event_type, rows in tables.items():
            own = points(event_type, _placed(rows, is_placed=False) if event_type in _EPOCHS else rows)
            if event_type in LOGGED_ROW_BY_ROW:
                found += [(last if told is None else told, values) for told, values in own]
            else:
                summary |= own[0][1] if own else {}
        found += [(last, summary)] if summary else []
        self._env_steps = max(self._env_steps, last)
        return LoggedRound(end.number, self._env_steps, tuple(found))


def _joined(tables: Mapping[TelemetryEventType, list[pa.Table]]) -> Tables:
    return {event_type: pa.concat_tables(parts, promote_options="permissive") for event_type, parts in tables.items() if parts}


def _latest(event_type: TelemetryEventType, rows: pa.Table) -> pa.Table:
    """Of rows that say the same the one told last, in an order that does not depend on which came first."""
    columns = _KEY_COLUMNS.get(event_type)
    if columns is None:
        return rows.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
    rows = rows.sort_by("timestamp")
    last = {(*key, i) if -1 in key else key: i for i, key in enumerate(_keys(rows, columns))}
    return rows.take([last[key] for key in sorted(last)])


def _placed(rows: pa.Table, *, is_placed: bool = True) -> pa.Table:
    """Rows that say their epoch, or those that do not."""
    is_known = pc.is_valid(rows.column("inner_epoch"))
    return rows.filter(is_known if is_placed else pc.invert(is_known))


def _epochs(tables: Tables) -> list[tuple[int, dict[str, float]]]:
    """Env steps of each epoch, and the means over its envs, in the order of epochs."""
    sizes: dict[tuple[int, ...], int] = defaultdict(int)
    values: dict[tuple[int, ...], dict[str, float]] = defaultdict(dict)
    for event_type, rows in tables.items():
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, key in enumerate(_keys(rows, ("episode_idx", "inner_epoch"))):
            places[key].append(i)
        for key, own in places.items():
            ((_, means),) = points(event_type, rows.take(own))
            sizes[key] = max(sizes[key], len(own))
            values[key] |= means
    return [(sizes[key], values[key]) for key in sorted(sizes)]


def _keys(rows: pa.Table, columns: tuple[str, ...]) -> list[tuple[int, ...]]:
    """What `columns` say in each row; −1 where they say nothing."""
    found = [[-1 if value is None else value for value in rows.column(name).to_pylist()] for name in columns]
    return list(zip(*found, strict=True))
