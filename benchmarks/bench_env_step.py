"""How much of bare PyTorch's speed is left when hosts grow (P1), what counterfactuals cost (P5), how soon it starts (P11).

python -m benchmarks.bench_env_step --preset reference --repeats 5 --json env_step.json
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from dataclasses import replace
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.start import measure_start
from benchmarks.workloads import BARE_LAYOUTS, PresetName, Workload, assemble, cnn_of, make_workload, open_player, train_bare
from esper.distributed.env_worker import ScriptedSpec
from esper.leyline.actions import WAIT, FactoredAction, LifecycleOp
from esper.tolaria.counterfactual import plan_configurations
from esper.tolaria.data import augment, batches
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.workloads import BareLayout, Player
    from esper.leyline.rollout import StepBatch
    from esper.tolaria.engine.base import TrainingPlan
    from esper.tolaria.tasks.base import Episode
    from esper.tolaria.trial import EpisodeRequest

NUM_SEEDS = 3
MIN_ENVS = 4
SETTLING_EPOCHS = 12
"""Time enough for seeds that are germinated one after another to blend in."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--preset", choices=get_args(PresetName), default="image-mix")
    parser.add_argument("--envs", type=int, help="hosts in lockstep; one for each context of the preset, and at least four, unless given")
    parser.add_argument("--ray", action="store_true", help="also time the first env step on a fresh local Ray")
    parser.add_argument("--only", nargs="+", choices=("P1", "P5", "P11"), default=("P1", "P5", "P11"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.max_epochs=3")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        if "P1" in arguments.only:
            workload = make_workload(arguments.preset, arguments.overrides)
            figures |= measure_throughput(
                workload, repeats=arguments.repeats, num_envs=arguments.envs or max(len(workload.contexts), MIN_ENVS)
            )
        if "P5" in arguments.only:
            figures["P5"] = measure_counterfactuals(arguments.preset, arguments.overrides, repeats=arguments.repeats)
        if "P11" in arguments.only:
            figures["P11"] = measure_start(repeats=arguments.repeats, has_ray=False)
            if arguments.ray:
                figures["P11_ray"] = measure_start(repeats=arguments.repeats, has_ray=True)
        return figures

    return run_benchmark(measure, arguments.json)


def measure_throughput(workload: Workload, *, repeats: int, num_envs: int) -> dict[str, Figure]:
    """P1: env steps per CPU second with the policy network and with the random policy, beside bare PyTorch."""
    plan = workload.plan
    rates: dict[str, list[float]] = {name: [] for name in ("learned", "random", *BARE_LAYOUTS)}
    with open_player(workload, workload.make_trial) as player:
        play_learned(player, 0, workload.requests(0, 1))
        for repeat in range(1, repeats + 1):
            requests = workload.requests(repeat, num_envs)
            rates["learned"].append(rate_of(partial(play_learned, player, repeat, requests)))
            rates["random"].append(rate_of(partial(play_random, player, requests)))
            for layout in BARE_LAYOUTS:
                episodes = [workload.make_episode(request) for request in requests]
                rates[layout].append(rate_of(partial(play_bare, episodes, plan, layout)))
    best = max(BARE_LAYOUTS, key=lambda layout: median(rates[layout]))
    return {
        f"P1_{policy}": figure(
            f"env steps, {policy} policy, from the start of an episode to its outcome",
            "env steps per CPU second",
            values=rates[policy],
            reference=f"bare PyTorch training and validation, {best}, the fastest of {', '.join(BARE_LAYOUTS)}",
            reference_values=rates[best],
            share_of_bare={layout: median(map(truediv, rates[policy], rates[layout])) for layout in BARE_LAYOUTS},
            workload=describe(workload, num_envs),
        )
        for policy in ("learned", "random")
    }


def play_learned(player: Player, group: int, requests: Sequence[EpisodeRequest]) -> int:
    """Play episodes with the policy network; returns the env steps."""
    step = player.worker.start(group, requests)
    while not step.done.all():
        step = player.worker.step(player.learner.act(step, False))
    return sum(outcome.episode_length for outcome in player.worker.outcomes())


def play_random(player: Player, requests: Sequence[EpisodeRequest]) -> int:
    """Play episodes with the random policy, which needs no observation; returns the env steps."""
    outcomes = player.worker.play_scripted([ScriptedSpec("random")] * len(requests), requests)
    return sum(outcome.episode_length for outcome in outcomes)


def play_bare(episodes: Sequence[Episode], plan: TrainingPlan, layout: BareLayout) -> int:
    """Train the hosts alone; returns the epochs."""
    for episode in episodes:
        train_bare(episode, plan, layout)
    return len(episodes) * plan.max_epochs


def rate_of(play: Callable[[], int]) -> float:
    """Env steps per CPU second."""
    run = timed(play)
    return run.result / run.cpu_sec


def describe(workload: Workload, num_envs: int) -> dict[str, Any]:
    """Sizes of a workload, and what its augmentation costs and whether the engine does it."""
    request = workload.requests(0, 1)[0]
    episode = workload.make_episode(request)
    data, plan = episode.dataset, workload.plan
    plain = replace(episode, dataset=replace(data, augmentation="none"), host=deepcopy(episode.host))
    losses = [assemble(workload.config, each, request)[1].train_epoch(0).loss for each in (episode, plain)]
    generator = request.seeds.torch()
    pass_alone = timed(lambda: [augment(x, data.augmentation, generator) for x, _ in batches(data, plan.batch_size, generator)])
    return {
        "preset": workload.name,
        "num_envs": num_envs,
        "max_epochs": plan.max_epochs,
        "batch_size": plan.batch_size,
        "num_train": len(data.train_y),
        "num_val": len(data.val_y),
        "host_params": sum(parameter.numel() for parameter in cnn_of(episode).parameters()),
        "augmentation": data.augmentation,
        "is_augmented_by_engine": losses[0] != losses[1],
        "augmentation_cpu_sec_per_env_step": pass_alone.cpu_sec,
    }


def measure_counterfactuals(preset: PresetName, overrides: Sequence[str], *, repeats: int) -> Figure:
    """P5: CPU of evaluating every configuration of three live seeds beyond the plain validation, beside the whole env step."""
    growth = [f"growth.max_{what}={NUM_SEEDS}" for what in ("seeds", "developing")]
    length = [f"task.max_epochs={SETTLING_EPOCHS + repeats + 1}", "growth.auto_advance=true", "growth.min_training_epochs=2"]
    workload = make_workload(preset, [*overrides, *growth, *length])
    request = workload.requests(0, 1)[0]
    trial, engine = assemble(workload.config, workload.make_episode(request), request)
    spent: dict[str, list[float]] = {"extra": [], "step": []}
    with open_player(workload, lambda _: trial) as player:
        step = player.worker.start(0, [request])
        for epoch in range(SETTLING_EPOCHS):
            step = decide_and_step(player, step, seed_in(epoch))
        live = engine.model.live_slots()
        if len(live) != NUM_SEEDS or engine.model.fossil_slots():
            raise RuntimeError(f"after {SETTLING_EPOCHS} epochs slots {live} are live, {NUM_SEEDS} were wanted; raise SETTLING_EPOCHS")
        configurations = plan_configurations(live, (), is_last=False)
        for _ in range(repeats):
            whole = timed(partial(decide_and_step, player, step, WAIT))
            step = whole.result
            every = timed(partial(engine.evaluate, "val", configurations)).cpu_sec
            plain = timed(partial(engine.evaluate, "val", configurations[:1])).cpu_sec
            spent["step"].append(whole.cpu_sec)
            spent["extra"].append(every - plain)
    return figure(
        f"evaluating {len(configurations)} configurations, less one plain validation",
        "CPU seconds",
        values=spent["extra"],
        reference=f"env step with {NUM_SEEDS} live seeds",
        reference_values=spent["step"],
        preset=preset,
    )


def seed_in(slot: int) -> FactoredAction:
    """A small convolution for a slot, or nothing once every slot has one."""
    if slot >= NUM_SEEDS:
        return WAIT
    return WAIT._replace(op=LifecycleOp.GERMINATE, slot=slot, blueprint=Catalogue.standard().place("conv_light"))


def decide_and_step(player: Player, step: StepBatch, action: FactoredAction) -> StepBatch:
    """Ask the policy, but do `action`."""
    decision = player.learner.act(step, True)
    return player.worker.step(replace(decision, actions=np.array([[int(choice) for choice in action]])))


if __name__ == "__main__":
    main()
