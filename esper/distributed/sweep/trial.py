"""One run of a sweep, played round by round as a search wants it; the driver and the run's folder are those of `esper train`."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from esper.distributed.checkpoint_folder import CheckpointFolder
from esper.distributed.compare import compare
from esper.distributed.config import RunConfig, write_run_config
from esper.distributed.driver import Run, play_round, restore, save
from esper.distributed.event_group import LEARNED
from esper.distributed.facts import examine
from esper.distributed.run_dir import RunDir, RunDirBusyError, create_run_dir, open_run_dir, release_run_dir
from esper.distributed.session import make_run, open_runtime
from esper.karn.sweeps import RoundResult
from esper.leyline.load import dump, load, merge

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from esper.distributed.rounds import RoundReport
    from esper.distributed.sweep.config import Sweep

CLAIM_SEC = 120.0
"""Longest wait for the process that played the trial before to let go of its folder."""
_LEARNER, _TRIAL = "learner", "trial.json"


def trial_config(sweep: Sweep, point: Mapping[str, Any]) -> RunConfig:
    """The run of one trial: silent, with a checkpoint after every round, and grouped with the others."""
    changes = {
        "telemetry": {"console": "off", "wandb_group": sweep.name},
        "checkpoint": {"every_rounds": 1},
        "evaluation": {"baselines": []},
    }
    return load(RunConfig, merge(dump(sweep.run_config(point)), changes))


class SweepTrial:
    """Plays a run round by round, and can save itself, go on from a saved one, and end early.

    trial = SweepTrial(config, root, trial_id="ab_00000")
    trial.restore(folder)                # if there is something to go on from
    while not trial.is_finished:
        result = trial.play()
        trial.save(folder)
    trial.close()

    Settings come from `config` alone; from what was saved come weights, optimizer state and counters.
    """

    def __init__(
        self, config: RunConfig, root: Path, *, trial_id: str, local: bool = True, recent_rounds: int = 1, evaluates: bool = False
    ) -> None:
        self._config = config
        self._root = root
        self._trial_id = trial_id
        self._local = local
        self._recent_rounds = recent_rounds
        self._evaluates = evaluates
        self._recent: list[float] = []
        self._copied_from: str | None = None
        self._rounds = 0
        self._has_failed = False
        self._run: Run | None = None
        self._stack = ExitStack()

    @property
    def is_finished(self) -> bool:
        """Whether all rounds are played."""
        return self._rounds >= self._config.rollout.rounds

    def play(self) -> RoundResult:
        """Play a round, learn from it, save and tell; a run that has not begun begins."""
        run = self._run or self._open(0)
        self._has_failed = True
        report = play_round(run)
        run.story.round_finished(report)
        save(run, report.mean_utility, accuracy=report.mean_accuracy)
        self._rounds = report.counts.rounds
        self._recent = [*self._recent, report.mean_utility][-self._recent_rounds :]
        evaluation = _evaluate(run) if self.is_finished and self._evaluates else None
        self._has_failed = False
        result = _summarise(report, statistics.fmean(self._recent), evaluation, self._copied_from)
        self._copied_from = None
        if self.is_finished:
            self.close()
        return result

    def save(self, folder: Path) -> None:
        """Copy the newest checkpoint into `folder`."""
        source = self._checkpoints().path(self._rounds)
        shutil.copytree(source, folder / _LEARNER, dirs_exist_ok=True)
        (folder / _TRIAL).write_text(json.dumps({"trial_id": self._trial_id, "rounds": self._rounds, "recent": self._recent}))

    def restore(self, folder: Path) -> None:
        """Go on from what a trial, this one or another, saved in `folder`."""
        self.close()
        saved = json.loads((folder / _TRIAL).read_text())
        run = self._open(int(saved["rounds"]))
        own = run.checkpoints.path(int(saved["rounds"]))
        shutil.copytree(folder / _LEARNER, own, dirs_exist_ok=True)
        accuracy = restore(run, own)
        self._rounds = run.counts.rounds
        self._recent = list(saved["recent"])
        self._copied_from = saved["trial_id"] if saved["trial_id"] != self._trial_id else None
        run.story.started(run.facts, resumed_from=str(own), counts=run.counts, accuracy=accuracy)

    def close(self) -> None:
        """End the run as far as it came; nothing happens if it is not open."""
        run, self._run = self._run, None
        with self._stack:
            if run is not None:
                checkpoint = str(run.checkpoints.path(self._rounds)) if self._rounds else None
                reason = "failed" if self._has_failed else "completed" if self.is_finished else "stopped"
                run.story.finished(run.counts, reason, checkpoint)

    def _open(self, keep_rounds: int) -> Run:
        """Take the folder and start the parts; whatever lies there of later rounds is forgotten."""
        facts = examine(self._config)
        paths, is_new = _claim(self._root)
        with ExitStack() as stack:
            stack.callback(release_run_dir, paths)
            self._forget_checkpoints(keep_rounds)
            write_run_config(self._config, paths.config)
            runtime = stack.enter_context(
                open_runtime(self._config, facts, paths, local=self._local, keep_rounds=None if is_new else keep_rounds)
            )
            run = make_run(self._config, paths, runtime, lambda: False, facts)
            self._stack = stack.pop_all()
        if not keep_rounds:
            run.story.started(facts, resumed_from="", counts=run.counts)
        self._run = run
        return run

    def _checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(RunDir(self._root).checkpoints, self._config.checkpoint.keep_last)

    def _forget_checkpoints(self, keep_rounds: int) -> None:
        folder = self._checkpoints()
        best = folder.best()
        if best is not None and best[0] > keep_rounds:
            (RunDir(self._root).checkpoints / "best.json").unlink()
        for num_rounds in folder.rounds():
            if num_rounds > keep_rounds:
                shutil.rmtree(folder.path(num_rounds))


def _claim(root: Path) -> tuple[RunDir, bool]:
    """The trial's folder, and whether it is new; the process that played the trial before may take a moment to let go of it."""
    deadline = time.monotonic() + CLAIM_SEC
    while True:
        is_new = not RunDir(root).config.exists()
        try:
            return (create_run_dir(root), True) if is_new else (open_run_dir(root, for_writing=True), False)
        except RunDirBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _evaluate(run: Run) -> float:
    """Mean utility of the finished policy, acting greedily on hosts that it never trained on."""
    return statistics.fmean(outcome.utility for outcome in compare(run).outcomes[LEARNED])


def _summarise(report: RoundReport, recent: float, evaluation: float | None, copied_from: str | None) -> RoundResult:
    outcomes, last_pass = report.outcomes, report.update.passes[-1]
    return RoundResult(
        rounds=report.counts.rounds,
        env_steps=report.counts.env_steps,
        utility=report.mean_utility,
        utility_recent=recent,
        reward=statistics.fmean(outcome.episode_reward for outcome in outcomes),
        accuracy=report.mean_accuracy,
        explained_variance=report.update.values.explained_variance,
        entropy=last_pass.policy.entropy,
        env_steps_per_sec=report.env_steps_per_sec,
        evaluation_utility=evaluation,
        copied_from=copied_from,
    )
