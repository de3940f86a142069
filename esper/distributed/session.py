"""Whole commands: train, resume and evaluate, from checks to report."""

from __future__ import annotations

import signal
import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from esper.distributed import report
from esper.distributed.build import registry_digests, require_devices
from esper.distributed.checkpoint_folder import CheckpointError, CheckpointFolder, read_manifest, require_same_meaning
from esper.distributed.closing import besides
from esper.distributed.collector import Collector
from esper.distributed.compare import Comparison, compare
from esper.distributed.config import RunConfig, read_run_config, write_run_config
from esper.distributed.driver import Run, go_back, restore, train
from esper.distributed.executor import ClusterError, InterruptedRound, LearnerLostError, RunFailedError
from esper.distributed.facts import RunFacts, examine
from esper.distributed.run_dir import (
    RunDir,
    create_run_dir,
    discard_run_dir,
    missing_folders,
    open_evaluation_dir,
    open_run_dir,
    release_run_dir,
)
from esper.distributed.runtime import Runtime, open_local, open_ray, telemetry_stats
from esper.distributed.story import RunStory
from esper.leyline.load import ConfigError, dump, load, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from esper.distributed.checkpoint_store import CheckpointStore


def train_run(config: RunConfig, root: Path, *, local: bool) -> bool:
    """Train from the beginning; returns whether the user stopped it.

    Raises:
        ConfigError: If something that the configuration names does not exist, or its second place for checkpoints cannot be used.
        RunDirError: If `root` cannot be used.
        ClusterError: If the cluster cannot be reached or has less than the run asks for; `root` is then as it was. Also if its nodes
            do not see `root`.
    """
    facts = examine(config)
    if local:
        require_devices(config)
    store = open_store(config)
    if store is not None and store.config_text() is not None:
        raise ConfigError(
            f"checkpoint.uri={config.checkpoint.uri!r} holds a run already; continue it with "
            f"`esper resume {root} --from {config.checkpoint.uri}` or choose another place"
        )
    made = missing_folders(root)
    paths = create_run_dir(root)
    try:
        write_run_config(config, paths.config)
        return _play(config, paths, facts, store, local=local, is_resumed=False)
    except ClusterError:
        discard_run_dir(paths, made)
        raise
    finally:
        release_run_dir(paths)


def resume_run(root: Path, *, local: bool) -> bool:
    """Continue from the last checkpoint, or begin again if there is none yet; returns whether the user stopped it.

    Raises:
        RunDirError: If there is no run in `root`, or somebody is writing to it.
        CheckpointError: If its checkpoint is damaged, or of another version.
    """
    paths = open_run_dir(root, for_writing=True)
    try:
        config = read_run_config(paths.config)
        return _play(config, paths, examine(config), open_store(config), local=local, is_resumed=True)
    finally:
        release_run_dir(paths)


def open_store(config: RunConfig) -> CheckpointStore | None:
    """The run's second place for checkpoints, proved to be writable; None if it has none.

    Raises:
        ConfigError: If it cannot be used.
    """
    if config.checkpoint.uri is None:
        return None
    from esper.distributed.checkpoint_store import CheckpointStore  # with pyarrow's file systems

    store = CheckpointStore.open(config.checkpoint.uri)
    store.require_writable()
    return store


def evaluate_run(root: Path, changes: Mapping[str, Any], *, checkpoint: Literal["latest", "best"], local: bool) -> dict[str, Any] | None:
    """Compare a run's policy with baselines once more; the run's own telemetry stays as it is.

    Args:
        root: The run's folder.
        changes: What shall differ from the run's settings, section by section: `evaluation`, and `engine` for how hosts are trained.
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
    changed = merge(dump(read_run_config(paths.config)), changes)
    config = load(RunConfig, merge(changed, {"telemetry": {"console": "off", "wandb": "off"}}))
    if config.evaluation.seeds_per_context == 0:
        raise ConfigError("evaluation.seeds_per_context=0 plays no episode; give --seeds 1 or more")
    folder = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    source = folder.choose(checkpoint)
    require_same_meaning(source, read_manifest(source), registry_digests())
    facts = examine(config)
    scratch = open_evaluation_dir(paths)
    try:
        with _stop_flag() as should_stop, open_runtime(config, facts, scratch, local=local, keep_rounds=0) as runtime:
            run = make_run(config, scratch, runtime, should_stop, facts)
            restore(run, source)
            comparison = compare(run)
    except InterruptedRound:
        return None
    finally:
        release_run_dir(scratch)
    report.print_comparison(comparison)
    return comparison.to_dict()


def _play(config: RunConfig, paths: RunDir, facts: RunFacts, store: CheckpointStore | None, *, local: bool, is_resumed: bool) -> bool:
    folder = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    if is_resumed and store is not None:
        for num_rounds in store.complete(folder):
            print(f"fetched     round {num_rounds} from {config.checkpoint.uri}")
    finished = sound_checkpoints(folder) if is_resumed else []
    source = folder.path(finished[-1]) if finished else None
    keep_rounds = (finished[-1] if finished else 0) if is_resumed else None
    with _stop_flag() as should_stop, open_runtime(config, facts, paths, local=local, keep_rounds=keep_rounds) as runtime:
        report.print_beginning(config, paths, facts, local=local, rounds=keep_rounds or 0)
        run = replace(make_run(config, paths, runtime, should_stop, facts), store=store)
        if store is not None:
            store.begin(paths)
        accuracy = restore(run, source) if source is not None else None
        run.story.started(facts, resumed_from=str(source or ""), counts=run.counts, accuracy=accuracy)
        try:
            was_interrupted, comparison = _play_to_the_end(run)
        except Exception as error:
            with besides(error):
                run.story.finished(run.counts, "failed", _newest(folder))
            raise
        if was_interrupted and runtime.crew is not None:
            runtime.crew.dismiss()
        told = telemetry_stats(runtime)
        run.story.finished(run.counts, "interrupted" if was_interrupted else "completed", _newest(folder), told.dropped_events)
        runtime.emitter.settle()
        own = runtime.emitter.stats()
    num_lost = told.lost_batches + own.lost_batches
    _require_stored(paths, told.held_batches + own.held_batches - num_lost, num_lost)
    if was_interrupted:
        report.print_interruption(paths)
    else:
        report.write_report(config, paths, comparison)
    if store is not None:
        store.update(folder)
    return was_interrupted


def _play_to_the_end(run: Run) -> tuple[bool, Comparison | None]:
    """Train, and compare as far as that is wanted; returns whether the user stopped it, and the comparison."""
    if train(run):
        return True, None
    if not run.config.evaluation.seeds_per_context:
        return False, None
    try:
        return False, _compare(run)
    except InterruptedRound:
        return True, None


def _newest(folder: CheckpointFolder) -> str | None:
    rounds = folder.rounds()
    return str(folder.path(rounds[-1])) if rounds else None


def _require_stored(paths: RunDir, num_held: int, num_lost: int) -> None:
    """Say what of a run that is over is missing in its telemetry.

    Raises:
        RunFailedError: If anything is.
    """
    complaints = []
    if num_held:
        remedy = f"they are kept in {paths.spool}, and `esper resume {paths.root}` stores them"
        complaints.append(f"{num_held} batches of its telemetry are not stored; {remedy}")
    if num_lost:
        complaints.append(f"{num_lost} batches of its telemetry are lost: neither the store nor telemetry.spool_disk_mb had room for them")
    if complaints:
        raise RunFailedError(f"the run is over, but {'; '.join(complaints)}")


def sound_checkpoints(folder: CheckpointFolder) -> list[int]:
    """Rounds after which there is a checkpoint to go on from; says on the terminal which newer ones are damaged.

    Raises:
        CheckpointError: If there are checkpoints, and all of them are damaged, or the one to go on from is of another version.
    """
    sound, complaints = folder.sound()
    if complaints and not sound:
        raise CheckpointError(complaints[0])
    for complaint in complaints:
        print(f"damaged checkpoint, going back to round {sound[-1]}: {complaint}", file=sys.stderr)
    if sound:
        newest = folder.path(sound[-1])
        require_same_meaning(newest, read_manifest(newest), registry_digests())
    return sound


def _compare(run: Run) -> Comparison:
    while True:
        try:
            return compare(run)
        except LearnerLostError as error:
            go_back(run, error)


def make_run(config: RunConfig, paths: RunDir, runtime: Runtime, should_stop: Callable[[], bool], facts: RunFacts) -> Run:
    """A run of the parts in `runtime`, at its beginning; `should_stop` is asked after each step."""
    collector = Collector(
        runtime.executor, runtime.workers, runtime.learner, num_steps=facts.max_epochs, should_stop=should_stop, crew=runtime.crew
    )
    checkpoints = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
    story = RunStory(config, runtime.emitter)
    if runtime.crew is not None:
        runtime.crew.report_to(story)
    return Run(config, facts, runtime, collector, checkpoints, story, claim=paths.lock, should_stop=should_stop)


def open_runtime(
    config: RunConfig, facts: RunFacts, paths: RunDir, *, local: bool, keep_rounds: int | None
) -> AbstractContextManager[Runtime]:
    """Start the parts in this process or in Ray actors; arguments as for `open_local`."""
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
