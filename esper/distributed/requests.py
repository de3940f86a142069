"""Which episodes a round or an evaluation consists of. Pure: the same arguments give the same requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from esper.leyline.rng import SeedTree
from esper.tolaria.tasks.registry import draw_context
from esper.tolaria.trial import EpisodeRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.config import RunConfig
    from esper.tolaria.tasks.base import Context, Split

T = TypeVar("T")

Groups = list[tuple[EpisodeRequest, ...]]
"""Episodes that are played in lockstep, group by group."""


def training_round(round_idx: int, config: RunConfig, seeds: SeedTree) -> Groups:
    """One episode per environment, its context drawn from its own seeds.

    Those that share a context stand together, because hosts that are alike train faster as one.
    """
    requests = []
    for env_id in range(config.rollout.num_envs):
        own = seeds.child("env", env_id, "episode", round_idx)
        requests.append((draw_context(config.task, "train", own), env_id, own))
    requests.sort(key=lambda request: (request[0].name, request[1]))
    return in_groups(
        [EpisodeRequest(env_id, round_idx, "train", own, context) for context, env_id, own in requests], config.rollout.envs_per_actor
    )


def evaluation_episodes(contexts: Sequence[Context], split: Split, *, seeds_per_context: int, root: int, group_size: int) -> Groups:
    """Every context on the same number of seeds; the same root pairs the episodes of different policies."""
    requests: list[EpisodeRequest] = []
    for context in contexts:
        for seed_idx in range(seeds_per_context):
            seeds = SeedTree(root).child(split, context.name, seed_idx)
            requests.append(EpisodeRequest(len(requests), seed_idx, split, seeds, context))
    return in_groups(requests, group_size)


def search_episodes(first: int, count: int, seeds: SeedTree, group_size: int) -> Groups:
    """Training episodes for a search that plays `count` of them, beginning at number `first`."""
    requests = [EpisodeRequest(i, first + i, "train", seeds.child("search", first + i)) for i in range(count)]
    return in_groups(requests, group_size)


def in_groups(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Cut into groups of `size`; the last may be smaller."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
