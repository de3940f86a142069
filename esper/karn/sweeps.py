"""The database of a sweep: its trials, what they tried, and how each of their rounds went. One small DuckDB file.

The file is open only while something is written or read, so that a sweep can be looked at while it runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_type_hints

import duckdb

from esper.karn.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path

SWEEP_FILE = "sweep.duckdb"
WAIT_SEC = 30.0
"""Longest wait for another process that has the file open."""
_COLUMN_TYPES = {int: "BIGINT", float: "DOUBLE", str: "VARCHAR", float | None: "DOUBLE", str | None: "VARCHAR"}


@dataclass(frozen=True, slots=True)
class RoundResult:
    """How one round of a trial went. None is unmeasured."""

    rounds: int
    """Rounds played, this one included."""
    env_steps: int
    utility: float
    """Mean over the round's episodes, on test data."""
    utility_recent: float
    """Mean of `utility` over the last few rounds; a single round is noisy."""
    reward: float
    """Mean episode reward as the learner sees it."""
    accuracy: float
    """Percent, of what was kept, on test data."""
    explained_variance: float | None
    entropy: float | None
    """Mean normalised entropy of the policy's heads, 0…1."""
    env_steps_per_sec: float
    evaluation_utility: float | None = None
    """Mean utility of the finished policy, acting greedily on hosts that it never trained on."""
    copied_from: str | None = None
    """Trial whose weights this round began with, where population based training replaced the trial's own."""


OBJECTIVES = ("utility_recent", "utility", "accuracy", "reward")
"""Metrics that a search may optimise: measured in every round."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial."""

    trial_id: str
    number: int
    """Place in the order in which trials were made, from 0."""
    status: str
    """`running`, `completed`, `stopped` (by the scheduler, early) or `failed`."""
    error: str | None = None


@dataclass(frozen=True)
class SweepTrialTable:
    """A trial with everything that is known of it."""

    record: TrialRecord
    parameters: Mapping[str, Any]
    """As they were last."""
    results: tuple[RoundResult, ...] = field(default=())
    """In the order of rounds."""

    @property
    def last(self) -> RoundResult | None:
        """The newest result."""
        return self.results[-1] if self.results else None


class SweepStore:
    """Reads and writes one sweep's file.

    store = SweepStore(folder / SWEEP_FILE)
    store.record_trial(TrialRecord("ab_00000", 0, "running"), {"ppo.learning_rate": 0.001})
    store.record_result("ab_00000", result, {"ppo.learning_rate": 0.001})
    trials = store.trials()
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the tables if they do not exist."""
        columns = ", ".join(f"{name} {_COLUMN_TYPES[kind]}" for name, kind in get_type_hints(RoundResult).items())
        with self._open(read_only=False) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS trials (trial_id VARCHAR, number BIGINT, status VARCHAR, error VARCHAR, updated_at TIMESTAMPTZ)"
            )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS parameters (trial_id VARCHAR, since_rounds BIGINT, key VARCHAR, value JSON, number DOUBLE)"
            )
            connection.execute(f"CREATE TABLE IF NOT EXISTS results (trial_id VARCHAR, reported_at TIMESTAMPTZ, {columns})")

    def record_trial(self, trial: TrialRecord, parameters: Mapping[str, Any]) -> None:
        """Insert a trial, or replace what is known of it; parameters are kept if none are known yet."""
        with self._open(read_only=False) as connection:
            connection.begin()
            connection.execute("DELETE FROM trials WHERE trial_id = ?", [trial.trial_id])
            connection.execute(
                "INSERT INTO trials (trial_id, number, status, error, updated_at) VALUES (?, ?, ?, ?, now())", list(asdict(trial).values())
            )
            if not _parameters(connection, trial.trial_id):
                _write_parameters(connection, trial.trial_id, 0, parameters)
            connection.commit()

    def record_result(self, trial_id: str, result: RoundResult, parameters: Mapping[str, Any]) -> None:
        """Add a round with the parameters it was played with; a round that was played again replaces what came of it before."""
        values = asdict(result)
        names = ", ".join(values)
        with self._open(read_only=False) as connection:
            connection.begin()
            connection.execute("DELETE FROM results WHERE trial_id = ? AND rounds >= ?", [trial_id, result.rounds])
            connection.execute("DELETE FROM parameters WHERE trial_id = ? AND since_rounds >= ?", [trial_id, result.rounds])
            places = ", ".join("?" for _ in values)
            connection.execute(
                f"INSERT INTO results (trial_id, reported_at, {names}) VALUES (?, now(), {places})", [trial_id, *values.values()]
            )
            if parameters != _parameters(connection, trial_id):
                _write_parameters(connection, trial_id, result.rounds, parameters)
            connection.commit()

    def keep_trials(self, trial_ids: Sequence[str]) -> None:
        """Forget all trials but these."""
        with self._open(read_only=False) as connection:
            connection.begin()
            for table in ("trials", "parameters", "results"):
                connection.execute(f"DELETE FROM {table} WHERE NOT list_contains(?, trial_id)", [list(trial_ids)])
            connection.commit()

    def trials(self) -> list[SweepTrialTable]:
        """Every trial in the order in which they were made.

        Raises:
            StoreError: If there is no such file, or it cannot be read.
        """
        if not self.path.exists():
            raise StoreError(f"{self.path} does not exist; is {self.path.parent} the folder of a sweep?")
        names = [f.name for f in fields(RoundResult)]
        tables = []
        with self._open(read_only=True) as connection:
            rows = connection.execute("SELECT trial_id, number, status, error FROM trials ORDER BY number").fetchall()
            for row in rows:
                record = TrialRecord(*row)
                played = connection.execute(
                    f"SELECT {', '.join(names)} FROM results WHERE trial_id = ? ORDER BY rounds", [record.trial_id]
                ).fetchall()
                results = tuple(RoundResult(*values) for values in played)
                tables.append(SweepTrialTable(record, _parameters(connection, record.trial_id), results))
        return tables

    def _open(self, *, read_only: bool) -> Any:
        deadline = time.monotonic() + WAIT_SEC
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.IOException as error:
                if time.monotonic() > deadline:
                    raise StoreError(f"{self.path} cannot be opened: {error}") from error
                time.sleep(0.05)


def _parameters(connection: Any, trial_id: str) -> dict[str, Any]:
    rows = connection.execute(
        "SELECT key, value FROM parameters WHERE trial_id = ? "
        "AND since_rounds = (SELECT max(since_rounds) FROM parameters WHERE trial_id = ?)",
        [trial_id, trial_id],
    ).fetchall()
    return {key: json.loads(value) for key, value in rows}


def _write_parameters(connection: Any, trial_id: str, since_rounds: int, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        connection.execute("INSERT INTO parameters VALUES (?, ?, ?, ?, ?)", [trial_id, since_rounds, key, json.dumps(value), number])
