"""Short trials on the smoke task with the real catalogue, and how to look at what they report."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, EpisodeRequest, GovernorConfig, SequentialEngine, TaskConfig, TolariaGovernor, TrainingPlan, Trial
from esper.tolaria.tasks import Context, make_episode
from esper.urza import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from esper.leyline.masks import ActionMasks
    from esper.leyline.reports import TrialReport
    from esper.tolaria.data import Dataset

TASK = TaskConfig(preset="smoke", num_train=64, num_val=50, num_test=40)
CONTEXT = Context("digits8", "blind0", 0.75)
CATALOGUE = Catalogue.standard()
NORM = CATALOGUE.place("norm")
LIVELY: dict[str, Any] = {
    "blueprints": ("norm", "attention", "conv_light", "lora"),
    "min_training_epochs": 1,
    "min_gradient_health": 0.0,
    "min_prune_age_epochs": 1,
    "min_holding_epochs": 0,
    "embargo_epochs": 1,
    "max_developing": 3,
    "tempos": (0,),
}
"""Rules under which a dozen epochs show every stage and every operation."""


def make_request(seed: int = 0, *, env_id: int = 0) -> EpisodeRequest:
    return EpisodeRequest(env_id, 3, "train", SeedTree(seed).child("env", env_id), CONTEXT)


def make_trial(
    request: EpisodeRequest | None = None, *, max_epochs: int = 12, governor: GovernorConfig | None = None, **growth: Any
) -> Trial:
    request = request or make_request()
    episode = make_episode(TASK, request.split, request.seeds, request.context)
    model = MorphogeneticModel(episode.host, CATALOGUE, GrowthConfig(**{**LIVELY, **growth}), request.seeds.child("growth"))
    plan = TrainingPlan(max_epochs, batch_size=32, learning_rate=0.015)
    engine = SequentialEngine(model, episode.dataset, EngineConfig(), plan=plan, seeds=request.seeds.child("training"))
    judge = TolariaGovernor(governor or GovernorConfig(), episode.dataset.num_classes)
    return Trial(request, episode.context, engine, judge, max_epochs=max_epochs)


def data_of(trial: Trial) -> Dataset:
    """The trial's own data, drawn again."""
    return make_episode(TASK, trial.request.split, trial.request.seeds, trial.request.context).dataset


def accuracy(model: MorphogeneticModel, x: Tensor, y: Tensor, slots_on: Sequence[int]) -> float:
    """Percent, sample by sample in one pass of the model."""
    with torch.no_grad():
        logits = model.forward_configurations(x, [tuple(slots_on)])[0]
    return 100.0 * (logits.argmax(-1) == y).float().mean().item()


def act(op: LifecycleOp, slot: int = 0, **choices: Any) -> FactoredAction:
    return FactoredAction(op=op, slot=slot, blueprint=NORM, style=BlendStyle.LINEAR_ADD)._replace(**choices)


def raise_to_holding(trial: Trial, slot: int) -> TrialReport:
    """Germinate in a slot and wait on until the seed may become permanent."""
    report = trial.step(act(LifecycleOp.GERMINATE, slot))
    while not report.masks.slot[0, LifecycleOp.FOSSILIZE, slot] or not report.masks.op[0, LifecycleOp.FOSSILIZE]:
        may_advance = report.masks.op[0, LifecycleOp.ADVANCE] and report.masks.slot[0, LifecycleOp.ADVANCE, slot]
        report = trial.step(act(LifecycleOp.ADVANCE, slot) if may_advance else FactoredAction())
    return report


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def are_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def masks_agree(a: ActionMasks, b: ActionMasks) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def reports_agree(a: TrialReport, b: TrialReport) -> bool:
    """Whether two reports differ in nothing but wall time."""
    return masks_agree(a.masks, b.masks) and replace(b, masks=a.masks, timings=a.timings) == a
