"""How far a run is, read from its folder: its checkpoints, and its telemetry, which a living run is asked for."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from esper.distributed.checkpoint_folder import CheckpointFolder
from esper.distributed.run_dir import Owner, RunDir, RunDirError, open_run_dir, owner
from esper.distributed.settings_file import read_settings
from esper.karn.live import ask_live
from esper.karn.queries import RunOverview, run_overview
from esper.karn.sandbox import QueryError, QueryLimits
from esper.karn.store import Store, StoreError
from esper.leyline.telemetry import TelemetryEventType
from esper.leyline.telemetry.schema import table_name

if TYPE_CHECKING:
    from pathlib import Path

ASKED = QueryLimits(max_rows=1, timeout_sec=1.0)
"""What a living run is asked at most; one that is busy answering others is left alone after a few seconds."""


class Phase(StrEnum):
    """What a run is at."""

    STARTING = "starting"
    """Somebody is at work; no round has ended yet."""
    TRAINING = "training"
    COMPARING = "comparing"
    """All rounds are played; the policy is compared with baselines."""
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    """Stopped by request."""
    FAILED = "failed"
    """Ended by an error that it told of."""
    DIED = "died"
    """Nobody is at work, and the run did not say why."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as its folder shows it. None is unknown."""

    run_dir: str
    phase: Phase
    rounds: int
    """Saved in the last checkpoint."""
    planned_rounds: int
    episodes: int
    env_steps: int
    env_steps_per_sec: float | None
    """While it lives between the last two checkpoints, afterwards over its last life."""
    utility: float | None
    """Mean of the last saved round's episodes."""
    checkpoint: str | None
    checkpoint_age_sec: float | None
    owner: Owner | None
    """Who writes to the folder; on another machine, by its signs of life."""
    parts_lost: int | None
    """Processes that were lost; None where telemetry says nothing, or belongs to a living run that does not answer."""
    parts_recovered: int | None
    incidents: int | None
    """Times that the telemetry file could not be written or its log not be read; None as for `parts_lost`."""
    events_lost: int | None
    """Events that telemetry dropped or set aside; None as for `parts_lost`."""

    @property
    def is_resumable(self) -> bool:
        """Whether `esper resume` would play on."""
        return self.owner is None and self.phase is not Phase.COMPLETED


def run_status(root: Path) -> RunStatus:
    """Look at a run's folder; nothing is changed or started.

    Raises:
        RunDirError: If there is no run in `root`, or its settings were altered.
        ConfigError: If its settings cannot be read.
    """
    paths = open_run_dir(root, for_writing=False)
    planned, keep_last = _plan(paths)
    writer = owner(paths)
    folder = CheckpointFolder(paths.checkpoints, keep_last)
    saved = [(folder.path(number), _run_state(folder.path(number))) for number in folder.rounds()[-2:]]
    last = saved[-1][1] if saved else {}
    told = _ask_run(paths) if writer is not None else _read_telemetry(paths)
    rounds = int(last.get("rounds", 0))
    return RunStatus(
        run_dir=str(paths.root),
        phase=phase_of(
            is_owned=writer is not None,
            rounds=rounds,
            planned=planned,
            stop_reason=told.overview.stop_reason if told.overview else None,
        ),
        rounds=rounds,
        planned_rounds=planned,
        episodes=int(last.get("episodes", 0)),
        env_steps=int(last.get("env_steps", 0)),
        env_steps_per_sec=told.overview.env_steps_per_sec if told.overview else _speed(saved),
        utility=last.get("utility"),
        checkpoint=str(saved[-1][0]) if saved else None,
        checkpoint_age_sec=_age(saved[-1][0]) if saved else None,
        owner=writer,
        parts_lost=told.parts_lost,
        parts_recovered=told.parts_recovered,
        incidents=told.incidents,
        events_lost=told.events_lost,
    )


def phase_of(*, is_owned: bool, rounds: int, planned: int, stop_reason: str | None) -> Phase:
    """The phase of a run.

    Args:
        is_owned: Whether a process is at work on it.
        rounds: Played and saved.
        planned: Rounds that it shall play.
        stop_reason: What it said at its end, if it said anything.
    """
    if is_owned:
        if rounds >= planned:
            return Phase.COMPARING
        return Phase.TRAINING if rounds else Phase.STARTING
    ends = {"completed": Phase.COMPLETED, "interrupted": Phase.INTERRUPTED, "failed": Phase.FAILED}
    return ends.get(stop_reason or "", Phase.DIED)


def _plan(paths: RunDir) -> tuple[int, int]:
    """Rounds that the run shall play, and checkpoints that it keeps; its settings were checked when they were written."""
    settings = read_settings(paths.config)
    try:
        return int(settings["rollout"]["rounds"]), int(settings["checkpoint"]["keep_last"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{paths.config} was altered since the run began: rollout.rounds or checkpoint.keep_last is missing") from error


@dataclass(frozen=True, slots=True)
class _Told:
    overview: RunOverview | None = None
    parts_lost: int | None = None
    parts_recovered: int | None = None
    incidents: int | None = None
    events_lost: int | None = None


def _ask_run(paths: RunDir) -> _Told:
    """What a living run says of its telemetry; nothing if it is on another machine, busy, or records nothing."""
    counted = (table_name(TelemetryEventType.PART_LOST), table_name(TelemetryEventType.PART_RECOVERED), "incidents")
    lost = "(SELECT sum(dropped_events) FROM high_water_marks), (SELECT sum(num_events) FROM rejected_batches)"
    try:
        found = ask_live(paths.root, f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in counted)}, {lost}", ASKED)
    except QueryError:
        return _Told()
    if found is None:
        return _Told()
    parts_lost, parts_recovered, incidents, dropped, rejected = found.rows[0]
    return _Told(None, parts_lost, parts_recovered, incidents, int(dropped or 0) + int(rejected or 0))


def _read_telemetry(paths: RunDir) -> _Told:
    try:
        with Store.open(paths.root) as store:
            lost, recovered = (_count(store, kind) for kind in (TelemetryEventType.PART_LOST, TelemetryEventType.PART_RECOVERED))
            overview = run_overview(store)
            return _Told(overview, lost, recovered, overview.num_incidents, overview.dropped_events + overview.rejected_events)
    except StoreError:
        return _Told()


def _count(store: Store, kind: TelemetryEventType) -> int | None:
    table = table_name(kind)
    if not store.rows("SELECT 1 AS one FROM duckdb_tables() WHERE table_name = $1 AND NOT temporary", [table]):
        return None
    count: int = store.rows(f'SELECT count(*) AS num FROM "{table}"')[0]["num"]
    return count


def _run_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())["run"]
    except (OSError, ValueError, KeyError):
        return {}
    return state


def _written_at(checkpoint: Path) -> float | None:
    try:
        return (checkpoint / "manifest.json").stat().st_mtime
    except OSError:
        return None


def _age(checkpoint: Path) -> float | None:
    written = _written_at(checkpoint)
    return None if written is None else max(0.0, time.time() - written)


def _speed(saved: list[tuple[Path, dict[str, Any]]]) -> float | None:
    """Environment steps a second between two checkpoints, updates included."""
    if len(saved) < 2 or not all(state for _, state in saved):
        return None
    (older, before), (newer, after) = saved
    began, ended = _written_at(older), _written_at(newer)
    if began is None or ended is None or ended <= began:
        return None
    return float((after["env_steps"] - before["env_steps"]) / (ended - began))
