"""The end of a command: table, picture and paths, on the terminal and in the run's folder."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from esper.distributed.checkpoint_folder import CheckpointFolder
from esper.karn.report.markdown import write_report as write_markdown
from esper.karn.report.table import policy_table, rows_of
from esper.karn.store import Store
from esper.leyline.load import dump

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.compare import Comparison
    from esper.distributed.config import RunConfig
    from esper.distributed.facts import RunFacts
    from esper.distributed.run_dir import RunDir
    from esper.karn.report.table import PolicyRow


def write_report(config: RunConfig, paths: RunDir, comparison: Comparison | None) -> None:
    """Write the comparison, the picture and the report of a finished run, print the table and where everything lies."""
    rows: list[PolicyRow] = []
    if comparison is not None:
        found = comparison.to_dict()
        rows = rows_of(found)
        paths.comparison.write_text(json.dumps(found, indent=1))
        print_comparison(comparison)
    checkpoint = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last).latest()
    files: dict[str, Path] = {"checkpoint": checkpoint}
    if comparison is not None:
        files["comparison"] = paths.comparison
    if config.telemetry.is_on:
        with Store.open(paths.root) as store:
            report = write_markdown(store, paths.root, config=dump(config), comparison=rows, paths=files)
        files = {"telemetry": paths.telemetry, "plot": paths.plot, "report": report, **files}
    for name, path in files.items():
        print(f"{name:<11} {path}")


def print_comparison(comparison: Comparison) -> None:
    """Print the table of policies and the differences between the learned one and each baseline."""
    console = Console(highlight=False, soft_wrap=True)
    num_episodes = len(next(iter(comparison.outcomes.values())))
    title = f"{num_episodes} unseen hosts each, split {comparison.split!r}, {comparison.decisions} decisions"
    console.print(policy_table(rows_of(comparison.to_dict()), title=title))
    for pair in comparison.differences:
        d, p = pair.difference, pair.probability_of_improvement
        interval = "no CI from one seed" if d.low is None else f"95 % CI [{d.low:+.1f}, {d.high:+.1f}]"
        console.print(f"{pair.policy} − {pair.baseline}: {d.value:+.1f} U, {interval}, better in {100 * p.value:.0f} % of pairs")
    if comparison.fixed_plan is not None:
        console.print(f"fixed schedule, found in {comparison.fixed_episodes} episodes: {describe_plan(comparison)}")


def print_beginning(config: RunConfig, paths: RunDir, facts: RunFacts, *, local: bool, rounds: int) -> None:
    """Say what begins, on standard error, where rounds are told too; so many of them were played before."""
    if config.telemetry.console == "off":
        return
    rollout = config.rollout
    where = "in this process" if local else f"with Ray, environment actors: {rollout.num_actors}"
    is_over = rounds >= rollout.rounds
    ahead = f"all rounds of {rollout.rounds} are played" if is_over else f"begins round {rounds + 1} of {rollout.rounds}"
    print(
        f"{config.task.preset}: {ahead}, each {rollout.num_envs} episodes of {facts.max_epochs} host epochs; "
        f"{where}, engine {config.engine.kind}; writes to {paths.root}",
        file=sys.stderr,
        flush=True,
    )


def print_interruption(paths: RunDir) -> None:
    """Say how to go on."""
    print(f"stopped; every finished round is saved. Continue with: esper resume {paths.root}")


def describe_plan(comparison: Comparison) -> str:
    """The fixed schedule in words."""
    plan = comparison.fixed_plan or ()
    return ", ".join(f"place {g.blueprint_place} in slot {g.slot} at epoch {g.epoch}" for g in plan) or "grow nothing"
