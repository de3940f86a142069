"""Which episodes a round or an evaluation consists of. Pure: the same arguments give the same requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from esper.leyline.rng import SeedTree
from esper.tolaria.tasks.registry import deal_contexts
from esper.tolaria.trial import EpisodeRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.config import RunConfig
    from esper.tolaria.tasks.base import Context, Split

T = TypeVar("T")

Groups = list[tuple[EpisodeRequest, ...]]
"""Episodes that are played in lockstep, group by group."""


def training_round(round_idx: int, config: RunConfig, seeds: SeedTree) -> Groups:
    """One episode per environment, on seeds of its own. The contexts are dealt, not drawn: each is played equally often.

    Those that play one context stand together, because hosts that are alike train faster as one.
    """
    rollout = config.rollout
    num_contexts = -(-rollout.num_envs // rollout.envs_per_context)
    dealt = deal_contexts(config.task, "train", seeds.child("contexts"), first=round_idx * num_contexts, count=num_contexts)
    requests = [
        EpisodeRequest(i, round_idx, "train", seeds.child("env", i, "episode", round_idx), dealt[i // rollout.envs_per_context])
        for i in range(rollout.num_envs)
    ]
    return in_groups(sorted(requests, key=lambda request: request.context.name if request.context else ""), rollout.envs_per_actor)


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
