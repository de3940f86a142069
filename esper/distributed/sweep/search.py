"""Whole sweeps: begin, continue, and play winner and default on further seeds."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from esper.distributed.executor import ClusterError, RunFailedError
from esper.distributed.run_dir import RunDirError, claim, missing_folders, release, remove_folders, require_lasting
from esper.distributed.sweep.config import Sweep, read_sweep, write_sweep
from esper.distributed.sweep.layout import SweepDir, create_sweep_dir, note_place, open_sweep_dir, require_place
from esper.karn.sweeps import SweepStore
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper.distributed.sweep.space import Point

FIRST_SEED = 1_000
"""Added to run.seed for the first confirmation; the next ones follow. The sweep itself never plays them."""
WINNER, DEFAULT = "winner", "default"


def start_sweep(sweep: Sweep, root: Path) -> bool:
    """Play a new sweep; returns whether the user stopped it.

    Raises:
        ConfigError: If something that the runs name does not exist.
        RunDirError: If `root` cannot be used.
        ClusterError: If a trial asks for more than the cluster has; `root` is then as it was.
        RunFailedError: If no trial came to a result.
    """
    made = missing_folders(root)
    folder = create_sweep_dir(root)
    with _claimed(folder):
        try:
            return _play(sweep, folder, resume=False)
        except (ClusterError, ConfigError):
            if not folder.tune.exists():
                _clear(folder)
                remove_folders(made)
            raise


def resume_sweep(root: Path) -> bool:
    """Play what is left of a sweep; returns whether the user stopped it.

    Raises:
        RunDirError: If there is no sweep in `root`, it was moved, another process plays it, or a Ray job's end would delete it.
        RunFailedError: If no trial came to a result.
    """
    require_lasting(root, "--resume")
    folder = open_sweep_dir(root)
    with _claimed(folder):
        return _play(stored_sweep(folder), folder, resume=True)


def stored_sweep(folder: SweepDir) -> Sweep:
    """The sweep that a folder holds."""
    return read_sweep(folder.config)


def confirm(folder: SweepDir, sweep: Sweep, winner: Point, num_seeds: int) -> bool:
    """Train winner and default on `num_seeds` further seeds and let the trained policies play on unseen hosts.

    What was played before is not played again if winner and seeds are the same; returns whether the user stopped it.

    Raises:
        ConfigError: If there is nothing to compare, or no host to compare on.
        RunDirError: If another confirmation lies there, or another process plays it.
    """
    if num_seeds < 2:
        raise ConfigError(f"--confirm {num_seeds}: an interval needs 2 seeds or more")
    if sweep.base.evaluation.seeds_per_context == 0:
        raise ConfigError("run.evaluation.seeds_per_context=0 plays no unseen host, so that nothing can be confirmed; set it to 1 or more")
    plan = confirmation_plan(sweep, winner, num_seeds)
    target = SweepDir(folder.confirmation)
    target.root.mkdir(exist_ok=True)
    with _claimed(target):
        return _confirm(plan, target, num_seeds)


def _confirm(plan: Sweep, target: SweepDir, num_seeds: int) -> bool:
    if not target.config.exists():
        return _play(plan, target, resume=False)
    played = [dict(table.parameters) for table in SweepStore(target.database).trials()]
    if any(point not in (plan.points or ()) for point in played):
        raise RunDirError(f"{target.root} holds a confirmation of other settings; move it away to confirm these")
    if len(played) > 0 and stored_sweep(target).config.num_trials != plan.config.num_trials:
        raise RunDirError(f"{target.root} holds a confirmation with another number of seeds; move it away to play {num_seeds}")
    return _play(plan, target, resume=True)


def confirmation_plan(sweep: Sweep, winner: Point, num_seeds: int) -> Sweep:
    """Winner and default side by side on the same seeds, each played to its end."""
    first = sweep.base.seed + FIRST_SEED
    points = tuple({**point, "seed": seed} for seed in range(first, first + num_seeds) for point in (winner, {}))
    scheduler = replace(sweep.config.scheduler, kind="none")
    name = f"{sweep.name}-confirm"
    config = replace(sweep.config, name=name, search="random", scheduler=scheduler, num_trials=len(points))
    return replace(sweep, config=config, points=points, evaluates=True)


def _play(sweep: Sweep, folder: SweepDir, *, resume: bool) -> bool:
    from esper.distributed.sweep.tuner import run_sweep  # takes seconds to import

    if resume:
        require_place(folder)
    else:
        write_sweep(sweep, folder.config)
        note_place(folder)
    store = SweepStore(folder.database)
    store.create()
    was_interrupted = run_sweep(sweep, folder, resume=resume)
    trials = store.trials()
    known = {table.record.trial_id for table in trials}
    for leftover in folder.trials.glob("*"):
        if leftover.name not in known:
            shutil.rmtree(leftover)
    failed = [table.record for table in trials if table.record.status == "failed"]
    if not was_interrupted and trials and len(failed) == len(trials):
        raise RunFailedError(f"all {len(failed)} trials failed; the first with: {failed[0].error}")
    return was_interrupted


@contextmanager
def _claimed(folder: SweepDir) -> Iterator[None]:
    """Have the folder alone: of two that went on with one sweep, the first to end would remove the other's trials."""
    try:
        claim(folder.lock)
    except OSError as error:
        raise RunDirError(f"{folder.root} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        release(folder.lock)


def _clear(folder: SweepDir) -> None:
    """Take back a folder in which nothing has happened, so that the same command can be given again."""
    for path in (folder.config, folder.place, folder.database):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.trials, ignore_errors=True)
    release(folder.lock)
