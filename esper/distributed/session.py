"""Whole commands: train, resume and evaluate, from checks to report."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from esper.distributed import report
from esper.distributed.checkpoint import CheckpointError, CheckpointFolder
from esper.distributed.collector import Collector, InterruptedRound
from esper.distributed.compare import Comparison, compare
from esper.distributed.config import EvaluationConfig, RunConfig, read_run_config, write_run_config
from esper.distributed.driver import Run, restore, train
from esper.distributed.executor import ClusterError
from esper.distributed.facts import RunFacts, examine
from esper.distributed.run_dir import RunDir, create_run_dir, discard_run_dir, open_evaluation_dir, open_run_dir, release_run_dir
from esper.distributed.runtime import Runtime, open_local, open_ray
from esper.distributed.story import RunStory
from esper.leyline.load import ConfigError, dump, load, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path


def train_run(config: RunConfig, root: Path, *, local: bool) -> bool:
    """Train from the beginning; returns whether the user stopped it.

    Raises:
        ConfigError: If something that the configuration names does not exist.
        RunDirError: If `root` cannot be used.
        ClusterError: If the cluster has less than the run asks for; `root` is then as it was.
    """
    facts = examine(config)
    paths = create_run_dir(root)
    try:
        write_run_config(config, paths.config)
        return _play(config, paths, facts, local=local, is_resumed=False)
    except ClusterError:
        discard_run_dir(paths)
        raise
    finally:
        release_run_dir(paths)


def resume_run(root: Path, *, local: bool) -> bool:
    """Continue from the last checkpoint, or begin again if there is none yet; returns whether the user stopped it.

    Raises:
        RunDirError: If there is no run in `root`, or somebody is writing to it.
        CheckpointError: If its checkpoint is damaged.
    """
    paths = open_run_dir(root, for_writing=True)
    try:
        config = read_run_config(paths.config)
        return _play(config, paths, examine(config), local=local, is_resumed=True)
    finally:
        release_run_dir(paths)


def evaluate_run(root: Path, changes: Mapping[str, Any], *, checkpoint: Literal["latest", "best"], local: bool) -> dict[str, Any] | None:
    """Compare a run's policy with baselines once more; the run's own telemetry stays as it is.

    Args:
        root: The run's folder.
        changes: Settings of `EvaluationConfig` that shall differ from the run's.
        checkpoint: Which policy.
        local: In this process.

    Returns:
        The comparison as plain data, or None if the user stopped it.

    Raises:
        ConfigError: If a change is wrong.
        RunDirError: If there is no run in `root`, or another process is evaluating it.
        CheckpointError: If it has no usable checkpoint.
    """
    paths = open_run_dir(root, for_writing=False)
    stored = read_run_config(paths.config)
    evaluation = load(EvaluationConfig, merge(dump(stored.evaluation), changes), "evaluation")
    if evaluation.seeds_per_context == 0:
        raise ConfigError("evaluation.seeds_per_context=0 plays no episode; give --seeds 1 or more")
    config = load(RunConfig, merge(dump(stored), {"evaluation": dump(evaluation), "telemetry": {"console": "off", "wandb": "off"}}))
    folder = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    source = folder.latest() if checkpoint == "latest" else _best(folder)
    facts = examine(config)
    scratch = open_evaluation_dir(paths)
    try:
        with _stop_flag() as should_stop, _open(config, facts, scratch, local=local, keep_rounds=0) as runtime:
            run = _make_run(config, scratch, runtime, should_stop, facts)
            restore(run, source)
            comparison = compare(run)
    except InterruptedRound:
        return None
    finally:
        release_run_dir(scratch)
    report.print_comparison(comparison)
    return comparison.to_dict()


def _play(config: RunConfig, paths: RunDir, facts: RunFacts, *, local: bool, is_resumed: bool) -> bool:
    folder = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    finished = folder.rounds() if is_resumed else []
    source = folder.latest() if finished else None
    keep_rounds = (finished[-1] if finished else 0) if is_resumed else None
    comparison: Comparison | None = None
    with _stop_flag() as should_stop, _open(config, facts, paths, local=local, keep_rounds=keep_rounds) as runtime:
        run = _make_run(config, paths, runtime, should_stop, facts)
        if source is not None:
            restore(run, source)
        run.story.started(facts, resumed_from=str(source or ""), counts=run.counts)
        was_interrupted = train(run)
        if not was_interrupted and config.evaluation.seeds_per_context:
            try:
                comparison = compare(run)
            except InterruptedRound:
                was_interrupted = True
        rounds = folder.rounds()
        checkpoint = str(folder.path(rounds[-1])) if rounds else None
        run.story.finished(run.counts, "interrupted" if was_interrupted else "completed", checkpoint)
    if was_interrupted:
        report.print_interruption(paths)
    else:
        report.write_report(config, paths, comparison)
    return was_interrupted


def _make_run(config: RunConfig, paths: RunDir, runtime: Runtime, should_stop: Callable[[], bool], facts: RunFacts) -> Run:
    collector = Collector(runtime.executor, runtime.workers, runtime.learner, num_steps=facts.max_epochs, should_stop=should_stop)
    checkpoints = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    return Run(config, facts, runtime, collector, checkpoints, RunStory(config, runtime.emitter))


def _open(config: RunConfig, facts: RunFacts, paths: RunDir, *, local: bool, keep_rounds: int | None) -> AbstractContextManager[Runtime]:
    return (open_local if local else open_ray)(config, facts, paths, keep_rounds=keep_rounds)


@contextmanager
def _stop_flag() -> Generator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a question that the loop asks; the second one kills.

    The handlers are set where they are needed, after Ray has set its own, by the first question.
    """
    state = {"stop": False, "armed": False}
    previous: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        state["stop"] = True
        signal.signal(number, signal.SIG_DFL)

    def should_stop() -> bool:
        if not state["armed"]:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, note)
            state["armed"] = True
        return state["stop"]

    try:
        yield should_stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _best(folder: CheckpointFolder) -> Path:
    best = folder.best()
    if best is None:
        raise CheckpointError("no best checkpoint was noted; use --checkpoint latest")
    return folder.path(best[0])
