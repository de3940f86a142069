"""Hosts of every kind, many alike, bare or with a seed in every slot: what engines are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from benchmarks.workloads import SEEDS, cifar_shaped
from esper.distributed.config import RunConfig, read_run_config
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import WAIT, LifecycleOp
from esper.leyline.host import HostFamily
from esper.tolaria.engine.base import TrainingPlan
from esper.tolaria.engine.sequential import SequentialEngine
from esper.tolaria.tasks.base import Context, Episode
from esper.tolaria.tasks.hosts import build_host
from esper.tolaria.tasks.presets import find_preset
from esper.tolaria.tasks.registry import make_episode
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esper.tolaria.data import Dataset

NOISE = "noise32"
"""Task of CIFAR-shaped images that are made here."""
BLUEPRINTS: dict[HostFamily, tuple[str, ...]] = {
    "cnn": ("norm", "attention", "conv_small", "conv_light", "lora"),
    "transformer": ("norm", "lora", "causal_conv", "mlp", "attention"),
    "mlp": ("norm", "lora", "mlp"),
}
"""What grows, in turn, where blueprints are mixed."""
FREELY = {"auto_advance": True, "min_training_epochs": 0, "min_gradient_health": 0.0, "max_seeds": 3, "max_developing": 3}
"""Rules of growth under which a seed is blended in as soon as its gradient was seen."""
MAX_TICKS = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A host, and the data that it trains on."""

    family: HostFamily
    host: str
    """Name for people, e.g. `atten 8×8`."""
    preset: str
    """Whose sizes and plan of training are taken."""
    context: Context
    settings: tuple[str, ...] = ()
    """What differs from the preset."""


CASES: tuple[Case, ...] = (
    Case("cnn", "atten 8×8", "smoke", Context("digits8", "atten", 1.0)),
    Case("cnn", "blind0 8×8", "smoke", Context("digits8", "blind0", 1.0)),
    Case("cnn", "base 16 8×8", "smoke", Context("digits8", "plain", 2.0)),
    Case("cnn", "linear 16×16", "image-mix", Context("texture", "linear", 1.0)),
    Case("cnn", "wide 16×16", "image-mix", Context("texture", "wide", 1.0)),
    Case("cnn", "impaired 32×32", "cifar10", Context(NOISE, "impaired", 1.0), ("task.num_train=512", "task.num_val=256")),
    Case("cnn", "plain 32×32", "cifar10", Context(NOISE, "plain", 1.0), ("task.num_train=512", "task.num_val=256")),
    Case("mlp", "mlp 16-16", "digits-mlp", Context("digits-vector", "mlp", 1.0)),
    Case("mlp", "mlp 64-64", "digits-mlp", Context("digits-vector", "mlp", 4.0)),
    Case("transformer", "t-noattn", "recall-compose", Context("recall", "t-noattn", 1.0)),
    Case("transformer", "t-full", "recall-compose", Context("recall", "t-full", 1.0)),
)


def find_case(host: str) -> Case:
    """The case of this name."""
    return {case.host: case for case in CASES}[host]


def make_engines(case: Case, num_members: int, overrides: Sequence[str] = ()) -> list[SequentialEngine]:
    """Engines of hosts that are alike but for their weights, their data and the order in which they see them."""
    growth = [f"growth.{key}={str(value).lower()}" for key, value in FREELY.items()]
    config = read_run_config(None, [f"task.preset={case.preset}", "growth.blueprints=[]", *growth, *case.settings, *overrides])
    return [_make_engine(config, episode, i) for i, episode in enumerate(_episodes(case, config, num_members))]


def grow(engines: Sequence[SequentialEngine], blueprints: Sequence[str]) -> None:
    """Blend a seed into every slot of every host, the blueprints in turn from slot to slot and from host to host.

    Raises:
        RuntimeError: If a seed was not blended in.
    """
    catalogue = Catalogue.standard()
    for member, engine in enumerate(engines):
        model = engine.model
        with GrowthTransaction(model, engine.optimizer):
            for slot in range(len(model.specs)):
                place = catalogue.place(blueprints[(member + slot) % len(blueprints)])
                model.apply(WAIT._replace(op=LifecycleOp.GERMINATE, slot=slot, blueprint=place), val_accuracy=0.0)
        count = min(engine.config.probe_samples, len(engine.dataset.train_y))
        logits = model.train()(engine.dataset.train_x[:count])
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, -2), engine.dataset.train_y[:count].flatten()))
        model.observe_gradients()
        _blend_in(engine)


def _blend_in(engine: SequentialEngine) -> None:
    model = engine.model
    for _ in range(MAX_TICKS):
        with GrowthTransaction(model, engine.optimizer):
            model.tick(val_accuracy=0.0, contributions={}, solo={})
        if all(slot.alpha == 1.0 for slot in model.seed_slots):
            return
    raise RuntimeError(f"after {MAX_TICKS} epochs the seeds' alphas are {[slot.alpha for slot in model.seed_slots]}, 1 was wanted")


def _episodes(case: Case, config: RunConfig, num_members: int) -> Iterator[Episode]:
    shared = cifar_shaped(find_preset(config.task).counts, SEEDS.child("data")) if case.context.task == NOISE else None
    for i in range(num_members):
        seeds = SEEDS.child("env", i)
        yield _fresh_host(case.context, shared, i) if shared is not None else make_episode(config.task, "train", seeds, case.context)


def _fresh_host(context: Context, dataset: Dataset, member: int) -> Episode:
    with SEEDS.child("env", member, "host").torch_scope():
        return Episode(context, dataset, build_host(context, dataset))


def _make_engine(config: RunConfig, episode: Episode, member: int) -> SequentialEngine:
    preset, seeds = find_preset(config.task), SEEDS.child("env", member)
    model = MorphogeneticModel(episode.host, Catalogue.standard(), config.growth, seeds.child("growth"))
    plan = TrainingPlan(preset.max_epochs, preset.batch_size, preset.learning_rate)
    return SequentialEngine(model, episode.dataset, config.engine, plan=plan, seeds=seeds.child("training"))
