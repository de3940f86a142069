"""How much of bare PyTorch's speed is left when hosts grow (P1), and how soon it starts (P11).

python -m benchmarks.bench_env_step --preset reference --only P1 --envs 1 4 16 --json benchmarks/results/env_step_reference.json
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

from benchmarks.bare import LAYOUTS, train_each, train_in_channels
from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.start import measure_start
from benchmarks.workloads import PresetName, Workload, assemble, cnn_of, make_workload, open_player
from esper.distributed.env_worker import ScriptedSpec
from esper.leyline.rollout import ActMode
from esper.tolaria.data import augment, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.workloads import Player
    from esper.tolaria.tasks.base import Episode
    from esper.tolaria.trial import EpisodeRequest

    BareLoop = Callable[[Sequence[Episode]], int]

DECIDING = "decisions"
SCRIPTED = ("random", "wait")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--preset", choices=get_args(PresetName), default="image-mix")
    parser.add_argument("--envs", nargs="+", type=int, default=(16,), help="hosts in lockstep; the preset's contexts in turn")
    parser.add_argument("--ray", action="store_true", help="also time the first env step on a fresh local Ray")
    parser.add_argument("--only", nargs="+", choices=("P1", "P11"), default=("P1", "P11"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.max_epochs=3 engine.kind=sequential")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        if "P1" in arguments.only:
            workload = make_workload(arguments.preset, arguments.overrides)
            for num_envs in arguments.envs:
                figures |= measure_throughput(workload, repeats=arguments.repeats, num_envs=num_envs)
        if "P11" in arguments.only:
            figures["P11"] = measure_start(repeats=arguments.repeats, has_ray=False)
            if arguments.ray:
                figures["P11_ray"] = measure_start(repeats=arguments.repeats, has_ray=True)
        return figures

    return run_benchmark(measure, arguments.json)


def measure_throughput(workload: Workload, *, repeats: int, num_envs: int) -> dict[str, Figure]:
    """P1: env steps per CPU second with the policy network, with the random policy and where nothing grows, beside bare PyTorch."""
    loops = bare_loops(workload, num_envs)
    rates: dict[str, list[float]] = {name: [] for name in ("learned", *SCRIPTED, *loops)}
    shares: list[dict[str, float]] = []
    with open_player(workload) as player:
        play_learned(player, 0, workload.requests(0, 1))
        for repeat in range(1, repeats + 1):
            requests = workload.requests(repeat, num_envs)
            player.spent.clear()
            played = timed(partial(play_learned, player, repeat, requests))
            rates["learned"].append(played.result / played.cpu_sec)
            shares.append({name: seconds / played.cpu_sec for name, seconds in player.spent.items()})
            for name in SCRIPTED:
                rates[name].append(rate_of(partial(play_scripted, player, name, requests)))
            for name, loop in loops.items():
                episodes = [workload.make_episode(request) for request in requests]
                rates[name].append(rate_of(partial(loop, episodes)))
    best = max(loops, key=lambda name: median(rates[name]))
    spent_on = {name: median(share[name] for share in shares) for name in shares[0]}
    return {
        f"P1_{workload.name}_{policy}_K{num_envs}": figure(
            f"env steps of {num_envs} hosts, {policy} policy, from the start of an episode to its outcome",
            "env steps per CPU second",
            values=rates[policy],
            reference=f"fastest bare PyTorch loop, {best}",
            reference_values=rates[best],
            share_of_bare={name: median(map(truediv, rates[policy], rates[name])) for name in loops},
            bare={name: median(rates[name]) for name in loops},
            workload=describe(workload, num_envs),
            **({"shares_of_cpu": spent_on | {"rest": 1.0 - sum(spent_on.values())}} if policy == "learned" else {}),
        )
        for policy in ("learned", *SCRIPTED)
    }


def bare_loops(workload: Workload, num_envs: int) -> dict[str, BareLoop]:
    """Bare PyTorch by name: hosts one at a time, and where there are several, those alike in the channels of one."""
    each: dict[str, BareLoop] = {layout: partial(train_each, plan=workload.plan, layout=layout) for layout in LAYOUTS}
    if num_envs == 1:
        return each
    return each | {f"in_channels_{layout}": partial(train_in_channels, plan=workload.plan, layout=layout) for layout in LAYOUTS}


def play_learned(player: Player, group: int, requests: Sequence[EpisodeRequest]) -> int:
    """Play episodes with the policy network; returns the env steps."""
    step = player.worker.start(group, requests)
    while not step.done.all():
        decided = timed(partial(player.learner.act, step, ActMode.TRAIN))
        player.spent[DECIDING] = player.spent.get(DECIDING, 0.0) + decided.cpu_sec
        step = player.worker.step(decided.result)
    return sum(outcome.episode_length for outcome in player.worker.outcomes())


def play_scripted(player: Player, policy: str, requests: Sequence[EpisodeRequest]) -> int:
    """Play episodes with a scripted policy, which needs no observation; returns the env steps."""
    outcomes = player.worker.play_scripted([ScriptedSpec(policy)] * len(requests), requests)
    return sum(outcome.episode_length for outcome in outcomes)


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
        "engine": workload.config.engine.kind,
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


if __name__ == "__main__":
    main()
