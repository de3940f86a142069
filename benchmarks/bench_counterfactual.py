"""What share of an env step goes to counterfactual configurations beyond the plain validation (P5).

python -m benchmarks.bench_counterfactual --json benchmarks/results/counterfactual.json
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.workloads import PresetName, assemble, make_workload, open_player
from esper.leyline.actions import WAIT, FactoredAction, LifecycleOp
from esper.leyline.rollout import ActMode
from esper.tolaria.counterfactual import plan_configurations
from esper.tolaria.engine.base import Evaluate
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.workloads import Player
    from esper.leyline.rollout import StepBatch
    from esper.tolaria.trial import EpisodeRequest, Trial

NUM_SEEDS = 3
SETTLING_EPOCHS = 12
"""Time enough for seeds that are germinated one after another to blend in."""
BLUEPRINT = "conv_light"
ENGINES = ("sequential", "population")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--presets", nargs="+", choices=get_args(PresetName), default=get_args(PresetName))
    parser.add_argument("--envs", type=int, default=4, help="hosts in lockstep, all in one context")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.num_train=64")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        return {
            f"P5_{preset}_{engine}": measure_counterfactuals(
                preset, [f"engine.kind={engine}", *arguments.overrides], repeats=arguments.repeats, num_envs=arguments.envs
            )
            for preset in arguments.presets
            for engine in ENGINES
        }

    return run_benchmark(measure, arguments.json)


def measure_counterfactuals(preset: PresetName, overrides: Sequence[str], *, repeats: int, num_envs: int) -> Figure:
    """CPU of evaluating every configuration of three live seeds beyond the plain validation, beside the whole env step."""
    growth = [f"growth.max_{what}={NUM_SEEDS}" for what in ("seeds", "developing")]
    length = [f"task.max_epochs={SETTLING_EPOCHS + repeats + 1}", "growth.auto_advance=true", "growth.min_training_epochs=2"]
    healthy = ["growth.min_gradient_health=0.0"]
    workload = make_workload(preset, [*overrides, *growth, *length, *healthy])
    requests = [replace(request, context=workload.contexts[0]) for request in workload.requests(0, num_envs)]
    trials: list[Trial] = []

    def make_trial(request: EpisodeRequest) -> Trial:
        trials.append(assemble(workload.config, workload.make_episode(request), request)[0])
        return trials[-1]

    spent: dict[str, list[float]] = {"extra": [], "step": []}
    with open_player(workload, make_trial) as player:
        step = player.worker.start(0, requests)
        for epoch in range(SETTLING_EPOCHS):
            step = decide_and_step(player, step, seed_in(epoch))
        configurations = plan_configurations(require_seeds(trials), (), is_last=False)
        every, plain = ([(trial.engine, Evaluate("val", asked)) for trial in trials] for asked in (configurations, configurations[:1]))
        for _ in range(repeats):
            whole = timed(partial(decide_and_step, player, step, WAIT))
            step = whole.result
            spent["extra"].append(
                timed(partial(player.trainer.answer, every)).cpu_sec - timed(partial(player.trainer.answer, plain)).cpu_sec
            )
            spent["step"].append(whole.cpu_sec)
    return figure(
        f"evaluating {len(configurations)} configurations, less one plain validation",
        "CPU seconds",
        values=spent["extra"],
        reference=f"env step of {num_envs} hosts with {NUM_SEEDS} live seeds each",
        reference_values=spent["step"],
        preset=preset,
        context=requests[0].context.name if requests[0].context else None,
        engine=workload.config.engine.kind,
        num_envs=num_envs,
        blueprint=BLUEPRINT,
    )


def require_seeds(trials: Sequence[Trial]) -> tuple[int, ...]:
    """The live slots, which are all.

    Raises:
        RuntimeError: If a trial has fewer, or permanent ones.
    """
    for trial in trials:
        live = trial.model.live_slots()
        if len(live) != NUM_SEEDS or trial.model.fossil_slots():
            raise RuntimeError(f"after {SETTLING_EPOCHS} epochs slots {live} are live, {NUM_SEEDS} were wanted; raise SETTLING_EPOCHS")
    return trials[0].model.live_slots()


def seed_in(slot: int) -> FactoredAction:
    """A small convolution for a slot, or nothing once every slot has one."""
    if slot >= NUM_SEEDS:
        return WAIT
    return WAIT._replace(op=LifecycleOp.GERMINATE, slot=slot, blueprint=Catalogue.standard().place(BLUEPRINT))


def decide_and_step(player: Player, step: StepBatch, action: FactoredAction) -> StepBatch:
    """Ask the policy, but do `action` in every trial."""
    decision = player.learner.act(step, ActMode.GREEDY)
    return player.worker.step(replace(decision, actions=np.array([[int(choice) for choice in action]] * len(step.done))))


if __name__ == "__main__":
    main()
