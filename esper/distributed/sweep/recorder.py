"""Notes what Ray Tune does: every trial and every round into the sweep's database, and a line each on the terminal."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from esper.karn.sweeps import RoundResult, SweepStore, TrialRecord

if TYPE_CHECKING:
    from esper.distributed.sweep.config import Sweep

MAX_ERROR = 500
"""Characters of an error that are kept."""


class Recorder(Callback):  # type: ignore[misc]
    """Called by Tune in the process that runs the sweep.

    Args:
        sweep: What is searched.
        database: The sweep's file.
    """

    def __init__(self, sweep: Sweep, database: Path) -> None:
        self._sweep = sweep
        self._store = SweepStore(database)
        self._playing: set[str] = set()

    def on_trial_start(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial begins, or goes on."""
        self._playing.add(trial.trial_id)
        self._note(trials, trial, "running")

    def on_trial_result(self, *, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial played a round."""
        played, point = _round_result(result), result["point"]
        self._store.record_result(trial.trial_id, played, point)
        copied = f" · from trial {_number(trials, played.copied_from)}" if played.copied_from else ""
        rounds = self._sweep.run_config(point).rollout.rounds
        metric = self._sweep.config.metric
        print(
            f"trial {_number(trials, trial.trial_id)} · round {played.rounds}/{rounds} · {metric} {getattr(played, metric):.2f}"
            f" · {_describe(point)}{copied}",
            flush=True,
        )

    def on_trial_complete(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial ended, by itself or by the scheduler's decision."""
        self._playing.discard(trial.trial_id)
        self._note(trials, trial, self._end_of(trial))

    def on_trial_error(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial failed for the last time."""
        self._playing.discard(trial.trial_id)
        error = _last_line(trial)
        self._note(trials, trial, "failed", error)
        print(f"trial {_number(trials, trial.trial_id)} failed: {error or 'Tune did not say why'}", flush=True)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Nothing more comes; note what a fault may have kept from being noted, and forget trials that it made Tune forget.

        A trial that is still being played ends because the user stopped the sweep, and goes on with it.
        """
        self._store.keep_trials([trial.trial_id for trial in trials])
        known = {table.record.trial_id: table.last for table in self._store.trials()}
        for trial in trials:
            if trial.status == "TERMINATED":
                if trial.last_result and "rounds" in trial.last_result:
                    self._catch_up(trial, known.get(trial.trial_id))
                end = self._end_of(trial)
                if end == "completed" or trial.trial_id not in self._playing:
                    self._note(trials, trial, end)
            elif trial.status == "ERROR":
                self._note(trials, trial, "failed", _last_line(trial))

    def _catch_up(self, trial: Any, known: RoundResult | None) -> None:
        last = _round_result(trial.last_result)
        if known is None or known.rounds < last.rounds:
            self._store.record_result(trial.trial_id, last, trial.last_result["point"])

    def _end_of(self, trial: Any) -> str:
        played = (trial.last_result or {}).get("rounds", 0)
        return "completed" if played >= self._sweep.run_config(trial.config["point"]).rollout.rounds else "stopped"

    def _note(self, trials: list[Any], trial: Any, status: str, error: str | None = None) -> None:
        self._store.record_trial(TrialRecord(trial.trial_id, _number(trials, trial.trial_id), status, error), trial.config["point"])


def _round_result(result: dict[str, Any]) -> RoundResult:
    values: dict[str, Any] = {f.name: result.get(f.name) for f in fields(RoundResult)}
    return RoundResult(**values)


def _number(trials: list[Any], trial_id: str | None) -> int:
    return next(number for number, trial in enumerate(trials) if trial.trial_id == trial_id)


def _last_line(trial: Any) -> str | None:
    """What the newest error ends with; while the sweep goes on, Tune has it in a file of its own and not yet in the sweep's folder."""
    lines = [line.strip() for line in (_noted_error(trial) or trial.get_error() or "").splitlines() if line.strip()]
    return lines[-1][:MAX_ERROR] if lines else None


def _noted_error(trial: Any) -> str | None:
    try:
        return Path(trial.error_file).read_text(errors="replace") if trial.error_file else None
    except FileNotFoundError:
        return None


def _describe(point: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items())
