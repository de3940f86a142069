"""One seed as plain data: where it stands, how far it is blended in, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from esper.kasmina.alpha_control import AlphaController
from esper.kasmina.gates import GATE_OF_STAGE, evaluate_gate
from esper.leyline.alpha import AlphaCurve, AlphaMode, BlendOperator
from esper.leyline.masks import SlotView
from esper.leyline.reports import SeedMetrics, SeedStateReport
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.config import GrowthConfig

GRADIENT_RATIO_DECAY = 0.9
"""Weight of the past in the averaged gradient ratio."""
BLENDED_STAGES = frozenset({SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED})
"""Stages in which a seed's value reaches the network."""
MODULE_STAGES = BLENDED_STAGES | {SeedStage.GERMINATED, SeedStage.TRAINING}
"""Stages in which a seed has a module."""


@dataclass(frozen=True, slots=True)
class FirstBlend:
    """How a new seed will be blended in once its training is done."""

    target: float
    curve: AlphaCurve
    tempo_epochs: int


@dataclass(frozen=True, slots=True)
class SeedState:
    """One seed. The state machine replaces it; nothing changes it in place."""

    seed_id: str
    slot_id: str
    slot_index: int
    blueprint_id: str
    blueprint_place: int
    num_parameters: int
    """Parameters of the blueprint; a gate adds its own."""
    stage: SeedStage
    operator: BlendOperator
    first_blend: FirstBlend
    metrics: SeedMetrics
    controller: AlphaController = field(default_factory=AlphaController)
    epochs_in_stage: int = 0
    age_epochs: int = 0
    withering_for: str | None = None
    """Who ordered the blend-out that is running; None while there is none. The seed no longer learns then."""

    @property
    def is_live(self) -> bool:
        """Whether the seed's value reaches the network now."""
        return self.stage in BLENDED_STAGES and self.controller.alpha > 0.0

    @property
    def has_module(self) -> bool:
        """Whether the seed has parameters."""
        return self.stage in MODULE_STAGES

    def entering(self, stage: SeedStage) -> SeedState:
        """The same seed on its first day in another stage."""
        metrics = replace(self.metrics, accuracy_at_stage_start=self.metrics.current_val_accuracy)
        return replace(self, stage=stage, epochs_in_stage=0, metrics=metrics)

    def report(self) -> SeedStateReport:
        """What others may know of the seed. Before its first blend, the alpha target is the one it is meant for."""
        controller = self.controller
        awaits_blend = self.stage in (SeedStage.GERMINATED, SeedStage.TRAINING)
        return SeedStateReport(
            seed_id=self.seed_id,
            slot_id=self.slot_id,
            blueprint_id=self.blueprint_id,
            blueprint_place=self.blueprint_place,
            stage=self.stage,
            epochs_in_stage=self.epochs_in_stage,
            age_epochs=self.age_epochs,
            num_parameters=self.num_parameters,
            alpha=controller.alpha,
            alpha_target=self.first_blend.target if awaits_blend else controller.target,
            alpha_mode=controller.mode,
            alpha_progress=controller.progress,
            operator=self.operator,
            tempo_epochs=self.first_blend.tempo_epochs,
            metrics=self.metrics,
        )

    def view(self, config: GrowthConfig) -> SlotView:
        """What legality depends on."""
        gate = GATE_OF_STAGE.get(self.stage)
        is_open = gate is not None and evaluate_gate(gate, self.report(), config).passed
        return SlotView(self.stage, self.age_epochs, self.controller.mode, is_open)


SlotStates = tuple[SeedState | None, ...]
"""The seed of every slot, in slot order; None is a free slot."""
EMPTY_VIEW = SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, gate_open=False)


def slot_views(slots: SlotStates, config: GrowthConfig) -> list[SlotView]:
    """What the masks depend on in every slot."""
    return [EMPTY_VIEW if seed is None else seed.view(config) for seed in slots]


@dataclass(frozen=True, slots=True)
class GradientReading:
    """Gradients of one seed after a backward pass."""

    norm: float
    """L2 norm over the seed's parameters."""
    health: float
    """1 − 0.5·(share of vanishing) − 0.8·(share of exploding) parameter tensors, at least 0."""
    has_vanishing: bool
    has_exploding: bool
    ratio: float | None
    """Seed to host gradient norm per square root of parameters; None where the host has no gradient."""


def record_gradients(slots: SlotStates, readings: Sequence[GradientReading | None]) -> SlotStates:
    """Enter readings into the seeds' metrics; a slot without one keeps what it had."""
    return tuple(
        seed if seed is None or reading is None else replace(seed, metrics=_with_gradients(seed.metrics, reading))
        for seed, reading in zip(slots, readings, strict=True)
    )


def _with_gradients(metrics: SeedMetrics, reading: GradientReading) -> SeedMetrics:
    ratio = metrics.gradient_ratio if reading.ratio is None else reading.ratio
    if ratio is not None and reading.ratio is not None and metrics.gradient_ratio is not None:
        ratio = GRADIENT_RATIO_DECAY * metrics.gradient_ratio + (1.0 - GRADIENT_RATIO_DECAY) * reading.ratio
    return replace(
        metrics,
        gradient_norm=reading.norm,
        gradient_health=reading.health,
        has_vanishing=reading.has_vanishing,
        has_exploding=reading.has_exploding,
        gradient_ratio=ratio,
    )
