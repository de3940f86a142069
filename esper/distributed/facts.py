"""What is measured about a run before it begins, without Ray: does every task exist, and what do its hosts look like?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.population.model import find_obstacle
from esper.leyline.host import HostFamily
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.tolaria.engine.layouts import choices_for, host_traits
from esper.tolaria.tasks.presets import find_preset
from esper.tolaria.tasks.registry import contexts, make_episode
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.config import RunConfig
    from esper.tolaria.data import Dataset
    from esper.tolaria.tasks.base import Episode


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's fixed surroundings."""

    max_epochs: int
    slot_ids: tuple[str, ...]
    host_params: int
    """Of the smallest host."""
    param_budget: int
    """Most parameters that may be added: the largest blueprint as often as seeds may fossilize."""
    steps_per_epoch: int
    """Host batches."""
    family: HostFamily
    blueprints: tuple[int, ...]
    """Catalogue places on offer."""
    largest_blueprint: int
    """Place of the one with the most parameters."""
    policy_device: str
    env_devices: tuple[str, ...]
    host_precision: str = "fp32"
    """Arithmetic of the hosts' forward and backward passes: `bf16` if one of them is chosen to train in it one by one."""


def examine(config: RunConfig) -> RunFacts:
    """Build one episode of every context, so that anything missing shows before work starts.

    Raises:
        ConfigError: If a context cannot be played, the split of the evaluation has none, contexts differ in their number of slots, or
            hosts cannot run as one though they should.
    """
    catalogue = Catalogue.standard()
    preset = find_preset(config.task)
    seeds = SeedTree(config.seed).child("preflight")
    episodes = [make_episode(config.task, "train", seeds, context) for context in contexts(config.task, "train")]
    models = [MorphogeneticModel(episode.host, catalogue, config.growth, seeds.child("growth")) for episode in episodes]
    layouts = {(model.host.family, tuple(spec.slot_id for spec in model.specs)) for model in models}
    if len(layouts) > 1:
        raise ConfigError(f"task.contexts mixes hosts with different slots: {sorted(layouts)}; restrict task.contexts")
    if config.engine.kind == "population":
        _require_stackable(episodes, models)
    family, slot_ids = layouts.pop()
    names = config.growth.blueprints or catalogue.names(family)
    costs = {name: max(_costs(catalogue, name, model) for model in models) for name in names}
    return RunFacts(
        max_epochs=preset.max_epochs,
        steps_per_epoch=-(-max(len(episode.dataset.train_x) for episode in episodes) // preset.batch_size),
        family=family,
        slot_ids=slot_ids,
        host_params=min(model.num_host_parameters for model in models),
        param_budget=min(config.growth.max_fossils, len(slot_ids)) * max(costs.values(), default=0),
        blueprints=tuple(catalogue.place(name) for name in names),
        largest_blueprint=catalogue.place(max(names, key=costs.__getitem__)),
        policy_device=config.cluster.learner_device,
        env_devices=(config.cluster.env_device,) * config.rollout.num_actors,
        host_precision=_precision(config, models, [episode.dataset for episode in episodes], preset.batch_size),
    )


def _require_stackable(episodes: Sequence[Episode], models: Sequence[MorphogeneticModel]) -> None:
    for episode, model in zip(episodes, models, strict=True):
        obstacle = find_obstacle(model)
        if obstacle is not None:
            raise ConfigError(
                f"engine.kind=population: hosts of {episode.context.name} cannot run as one, since {obstacle}; choose sequential or auto"
            )


def _precision(config: RunConfig, models: Sequence[MorphogeneticModel], datasets: Sequence[Dataset], batch_size: int) -> str:
    """`bf16` if a host that trains by itself would use it on this machine."""
    if config.engine.kind == "population":
        return "fp32"
    pairs = zip(models, datasets, strict=True)
    choices = [choices_for(host_traits(model, dataset, batch_size), config.engine) for model, dataset in pairs]
    return "bf16" if any(layout.precision == "bf16" for choice in choices for layout in choice.values()) else "fp32"


def _costs(catalogue: Catalogue, name: str, model: MorphogeneticModel) -> int:
    """Parameters of a blueprint where it needs the most."""
    return max(catalogue.spec(name, model.host.family, spec.channels, spec.positions).num_parameters for spec in model.specs)
