"""From a task's name to its data, and from a config and a seed to an episode."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from esper.leyline.load import ConfigError
from esper.tolaria.tasks.base import Context, Episode, Split, Task, parse_context
from esper.tolaria.tasks.cifar import make_cifar
from esper.tolaria.tasks.custom import make_custom
from esper.tolaria.tasks.digits import make_digits8, make_digits16, make_digits_vector
from esper.tolaria.tasks.hosts import build_host
from esper.tolaria.tasks.parquet import make_parquet_images, make_parquet_tokens
from esper.tolaria.tasks.presets import CUSTOM, find_preset
from esper.tolaria.tasks.procedural import make_relation, make_texture, make_where
from esper.tolaria.tasks.tokens import make_markov, make_modadd, make_recall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.rng import SeedTree
    from esper.tolaria.config import TaskConfig


def make_episode(config: TaskConfig, split: Split, seeds: SeedTree, context: Context | None = None) -> Episode:
    """Draw an episode: its context unless that is given, its data, and a fresh host.

    Args:
        config: Preset and what differs from it.
        split: Which contexts to draw from; also separates the randomness of training from that of evaluation.
        seeds: The episode's node of the tree. Equal nodes give equal episodes, and equal data for every policy.
        context: Play this context.

    Raises:
        ConfigError: If preset, context, host or sizes cannot be had; the message says which can.
    """
    preset = find_preset(config)
    node = seeds.child(split)
    context = context or draw_context(config, split, seeds)
    if context.task == CUSTOM:
        return make_custom(config, preset, context, seeds=node)
    known = tasks(config)
    if context.task not in known:
        raise ConfigError(f"context {context.name!r}: unknown task; known: {', '.join(known)}")
    dataset = known[context.task](preset.counts, node.child("data"))
    with node.child("host").torch_scope():
        host = build_host(context, dataset)
    return Episode(context, dataset, host)


def draw_context(config: TaskConfig, split: Split, seeds: SeedTree) -> Context:
    """The context of the episode with these seeds; all of the split are equally likely."""
    choice = contexts(config, split)
    return choice[int(seeds.child(split).child("context").numpy().integers(len(choice)))]


def deal_contexts(config: TaskConfig, split: Split, seeds: SeedTree, *, first: int, count: int) -> list[Context]:
    """Contexts number `first` to `first + count` of an endless deal that shows each equally often.

    Every time through the deck, contexts of one width come after another, so that a few in a row differ in their tasks.
    """
    deck = contexts(config, split)
    widths = sorted({context.width for context in deck})
    dealt: list[Context] = []
    for index in range(first, first + count):
        rng = seeds.child("deck", index // len(deck)).numpy()
        order = list(rng.permutation(widths))
        ranks = rng.permutation(len(deck))
        shuffled = sorted(range(len(deck)), key=lambda i: (order.index(deck[i].width), ranks[i]))
        dealt.append(deck[shuffled[index % len(deck)]])
    return dealt


def contexts(config: TaskConfig, split: Split) -> tuple[Context, ...]:
    """What episodes of a split are drawn from, each equally often.

    Raises:
        ConfigError: If the config's own list names a context that the split does not have, or leaves none.
    """
    preset = find_preset(config)
    offered = preset.heldout_contexts if split == "heldout" else preset.train_contexts
    if not offered:
        raise ConfigError(f"preset {preset.name!r} has no held-out contexts; compare on unseen seeds instead, with evaluation.split=eval")
    if not config.contexts:
        return offered
    every = preset.train_contexts + preset.heldout_contexts
    wanted = tuple(parse_context(name) for name in config.contexts)
    for context in wanted:
        if context not in every:
            raise ConfigError(f"task.contexts: {context.name!r} is not in {preset.name!r}; known: {', '.join(c.name for c in every)}")
    chosen = tuple(context for context in offered if context in wanted)
    if not chosen:
        raise ConfigError(f"task.contexts leaves nothing to {split}; it has {', '.join(c.name for c in offered)}")
    return chosen


def tasks(config: TaskConfig) -> Mapping[str, Task]:
    """Every task by name; those that read files look for them where `config` says."""
    return {
        "texture": make_texture,
        "where": make_where,
        "relation": make_relation,
        "digits": make_digits16,
        "digits8": make_digits8,
        "digits-vector": make_digits_vector,
        "recall": make_recall,
        "modadd": make_modadd,
        "markov": make_markov,
        "cifar10": partial(make_cifar, data_dir=config.data_dir, variant="cifar10"),
        "cifar100": partial(make_cifar, data_dir=config.data_dir, variant="cifar100"),
        "parquet-images": partial(make_parquet_images, data_dir=config.data_dir, columns=(config.image_column, config.label_column)),
        "parquet-tokens": partial(make_parquet_tokens, data_dir=config.data_dir, columns=(config.tokens_column, config.label_column)),
    }
