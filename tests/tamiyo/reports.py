"""Small trial reports, and a trial that only plays the lifecycle: no network is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.host import LayerSpec
from esper.leyline.masks import GrowthLimits, SlotView, compute_masks, explain_illegal
from esper.leyline.reports import EpochTimings, LayerReport, SeedMetrics, SeedStateReport, SlotReport, TrialReport
from esper.leyline.signals import FastTrainingSignals
from esper.leyline.stages import SeedStage

LIMITS = GrowthLimits(blueprints=(1, 2, 5), max_seeds=3, max_fossils=2)
STEPS_PER_EPOCH = 8


def make_layer(index: int, rng: np.random.Generator | None = None) -> LayerReport:
    spec = LayerSpec(
        layer_id=f"segment{index}",
        layer_type=("conv2d", "attention", "linear")[index % 3],
        activation_type=("relu", None)[index % 2],
        input_channels=8 * (index + 1),
        output_channels=8 * (index + 2),
        dropout_rate=0.0,
        num_parameters=100 * (index + 1),
        flops=5000 * (index + 1),
        segment=index,
    )
    if rng is None:
        return LayerReport(spec, None, None, None, None, None)
    return LayerReport(spec, *rng.random(5).tolist())


def make_seed(slot: int, stage: SeedStage = SeedStage.TRAINING, **changes: object) -> SeedStateReport:
    metrics = {k: changes.pop(k) for k in tuple(changes) if k in SeedMetrics.__dataclass_fields__}
    seed = SeedStateReport(
        seed_id=f"seed{slot}",
        slot_id=f"r0c{slot}",
        blueprint_id="conv_light",
        blueprint_place=1,
        stage=stage,
        epochs_in_stage=1,
        age_epochs=2,
        num_parameters=300,
        alpha=0.3,
        alpha_target=1.0,
        alpha_mode=AlphaMode.HOLD,
        alpha_progress=1.0,
        operator=BlendOperator.ADD,
        tempo_epochs=5,
        metrics=SeedMetrics(50.0, 51.0, 53.0, 54.0, **metrics),  # type: ignore[arg-type]
    )
    return replace(seed, **changes)  # type: ignore[arg-type]


def make_slot(index: int, num_layers: int, seed: SeedStateReport | None = None, rng: np.random.Generator | None = None) -> SlotReport:
    stats = (None, None, None, None) if rng is None else tuple(rng.random(4).tolist())
    return SlotReport(f"r0c{index}", index % num_layers, 8 * (index + 1), 64, seed, *stats)


def make_report(
    seeds: tuple[SeedStateReport | None, ...] = (None, None, None),
    *,
    num_layers: int = 4,
    rng: np.random.Generator | None = None,
    gates_open: bool = True,
    limits: GrowthLimits = LIMITS,
    **changes: object,
) -> TrialReport:
    slots = tuple(make_slot(i, num_layers, seed, rng) for i, seed in enumerate(seeds))
    views = [
        SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, False)
        if s is None
        else SlotView(s.stage, s.age_epochs, s.alpha_mode, gates_open and s.stage is not SeedStage.FOSSILIZED)
        for s in seeds
    ]
    seed_params = sum(0 if s is None else s.num_parameters for s in seeds)
    report = TrialReport(
        env_id=0,
        episode_idx=0,
        epoch=3,
        max_epochs=12,
        signals=FastTrainingSignals(epoch=3, global_step=24, val_loss=1.2, val_accuracy=52.0, plateau_epochs=4),
        train_loss=None if rng is None else 1.1,
        train_accuracy=None if rng is None else 55.0,
        val_loss=1.2,
        val_accuracy=52.0,
        committed_accuracy=50.0,
        host_params=1000,
        seed_params=seed_params,
        fossil_params=0,
        learning_rate=0.01,
        gradient_norm=None if rng is None else 0.7,
        layers=tuple(make_layer(i, rng) for i in range(num_layers)),
        slots=slots,
        masks=compute_masks(views, limits),
        transitions=(),
        counterfactuals=None,
        verdict=None,
        timings=EpochTimings(1.0, 1.0),
        done=False,
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def busy_report(rng: np.random.Generator, *, num_layers: int = 4, num_slots: int = 3) -> TrialReport:
    """Seeds in random stages, everything measured."""
    stages = (None, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED)
    drawn = [stages[int(i)] for i in rng.integers(len(stages), size=num_slots)]
    seeds = tuple(
        None
        if stage is None
        else make_seed(
            i,
            stage,
            age_epochs=int(rng.integers(1, 12)),
            blueprint_place=int(rng.integers(32)),
            alpha=float(rng.random()),
            gradient_norm=float(rng.random()),
            contribution=float(rng.normal()),
        )
        for i, stage in enumerate(drawn)
    )
    return make_report(seeds, num_layers=num_layers, rng=rng, limits=replace(LIMITS, max_seeds=num_slots))


@dataclass
class LifecycleTrial:
    """Plays the lifecycle by the letter of the masks: one stage per ADVANCE, two epochs of embargo after a PRUNE."""

    rng: np.random.Generator
    max_epochs: int = 20
    num_slots: int = 3
    contribution: float = 1.0
    limits: GrowthLimits = LIMITS

    def __post_init__(self) -> None:
        self.epoch = 0
        self.seeds: list[SeedStateReport | None] = [None] * self.num_slots
        self.actions: list[FactoredAction] = []

    @property
    def report(self) -> TrialReport:
        report = make_report(tuple(self.seeds), rng=self.rng, limits=self.limits)
        return replace(report, epoch=self.epoch, max_epochs=self.max_epochs, done=self.epoch >= self.max_epochs)

    def step(self, action: FactoredAction) -> TrialReport:
        """Refuse what is illegal, then let an epoch pass."""
        complaint = explain_illegal(action, self.report.masks)
        if complaint is not None:
            raise AssertionError(complaint)
        self.actions.append(action)
        self.seeds = [self._age(seed) for seed in self.seeds]
        seed = self.seeds[action.slot]
        after = {LifecycleOp.FOSSILIZE: SeedStage.FOSSILIZED, LifecycleOp.PRUNE: SeedStage.PRUNED}
        advanced = {SeedStage.GERMINATED: SeedStage.TRAINING, SeedStage.TRAINING: SeedStage.BLENDING, SeedStage.BLENDING: SeedStage.HOLDING}
        if action.op is LifecycleOp.GERMINATE:
            self.seeds[action.slot] = make_seed(
                action.slot, SeedStage.GERMINATED, blueprint_place=action.blueprint, age_epochs=0, contribution=self.contribution
            )
        elif seed is not None and action.op is LifecycleOp.ADVANCE:
            self.seeds[action.slot] = replace(seed, stage=advanced[seed.stage], epochs_in_stage=0)
        elif seed is not None and action.op in after:
            self.seeds[action.slot] = replace(seed, stage=after[action.op], epochs_in_stage=0)
        self.epoch += 1
        return self.report

    def _age(self, seed: SeedStateReport | None) -> SeedStateReport | None:
        if seed is None or (seed.stage is SeedStage.PRUNED and seed.epochs_in_stage >= 2):
            return None
        return replace(seed, age_epochs=seed.age_epochs + 1, epochs_in_stage=seed.epochs_in_stage + 1)
