"""What a trial reports after every epoch: its layers, its slots, its accuracy, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.host import LayerSpec
from esper.leyline.masks import ActionMasks
from esper.leyline.schemas import GateResult, GovernorVerdict
from esper.leyline.signals import FastTrainingSignals
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState, SeedTraits


@dataclass(frozen=True, slots=True)
class SeedMetrics:
    """Measurements of one seed. None is unmeasured."""

    accuracy_at_germination: float
    """Validation accuracy in percent, as are all accuracies here."""
    accuracy_at_stage_start: float
    current_val_accuracy: float
    best_val_accuracy: float
    gradient_norm: float | None = None
    """L2 norm over the seed's parameters after the last backward pass of the epoch."""
    gradient_health: float | None = None
    """0…1; 1 − 0.5·(share of vanishing) − 0.8·(share of exploding) parameter tensors."""
    has_vanishing: bool | None = None
    has_exploding: bool | None = None
    gradient_ratio: float | None = None
    """Seed to host gradient norm per square root of parameters, averaged with factor 0.9."""
    contribution: float | None = None
    """Leave-one-out: accuracy minus accuracy without this seed, in points."""
    solo_contribution: float | None = None
    """Accuracy with this seed alone minus accuracy with none, in points."""

    @property
    def improvement_since_stage_start(self) -> float:
        """Accuracy gained since the stage began, in points."""
        return self.current_val_accuracy - self.accuracy_at_stage_start

    @property
    def total_improvement(self) -> float:
        """Accuracy gained since germination, in points."""
        return self.current_val_accuracy - self.accuracy_at_germination


@dataclass(frozen=True, slots=True)
class SeedStateReport:
    """One living (or just pruned) seed."""

    seed_id: str
    slot_id: str
    blueprint_id: str
    blueprint_place: int
    stage: SeedStage
    epochs_in_stage: int
    age_epochs: int
    num_parameters: int
    alpha: float
    alpha_target: float
    alpha_mode: AlphaMode
    alpha_progress: float
    """Share of the running schedule that is done, 0…1; 1 in HOLD."""
    operator: BlendOperator
    tempo_epochs: int
    metrics: SeedMetrics
    traits: SeedTraits | None = None
    """What only systems outside Esper's own training tell."""


@dataclass(frozen=True, slots=True)
class SlotReport:
    """One slot, empty or not, with what is measured at its place in the host. None is unmeasured."""

    slot_id: str
    layer_index: int | None
    """Index into the trial's layers of the layer it follows; None where that is not known."""
    channels: int
    positions: int
    seed: SeedStateReport | None
    gradient_norm: float | None
    """Norm of the loss gradient with respect to the value at the slot, per square root of its size."""
    activation_mean: float | None
    activation_std: float | None
    """Mean over channels of each channel's standard deviation over samples and positions."""
    spatial_std: float | None
    """Mean over samples and channels of the standard deviation over positions; None where positions = 1."""
    monitored_layers: tuple[int, ...] = ()
    """Indices of the layers that a seed here watches; none named are those of `layer_index`."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One host layer after an epoch. None is unmeasured."""

    spec: LayerSpec
    weight_norm: float | None
    gradient_norm: float | None
    gradient_variance: float | None
    update_magnitude: float | None
    """Norm of the last epoch's weight change over the weight norm."""
    saturation_rate: float | None
    """Share of activations that are zero, 0…1."""
    update_frequency: float | None = None
    """Share of steps that update its weights, 0…1."""
    latency_ms: float | None = None
    """Time of its forward pass."""


@dataclass(frozen=True, slots=True)
class StageTransition:
    """One step of one seed through the lifecycle."""

    slot_id: str
    slot_index: int
    seed_id: str
    blueprint_id: str
    from_stage: SeedStage
    to_stage: SeedStage
    initiator: str
    """`policy`, `auto` (clock or gate), or `governor`."""
    reason: str
    seed: SeedStateReport
    """The seed just after the transition."""
    gate: GateResult | None = None


@dataclass(frozen=True, slots=True)
class Counterfactuals:
    """Validation accuracy (percent) under alpha overrides, all from one evaluation."""

    configurations: tuple[tuple[int, ...], ...]
    """Slots left on in each configuration."""
    accuracies: tuple[float, ...]

    def accuracy_of(self, slots_on: tuple[int, ...]) -> float:
        """Accuracy of the configuration with exactly `slots_on`.

        Raises:
            KeyError: If that configuration was not evaluated.
        """
        for configuration, accuracy in zip(self.configurations, self.accuracies, strict=True):
            if configuration == slots_on:
                return accuracy
        raise KeyError(f"configuration {slots_on} was not evaluated; evaluated: {self.configurations}")


@dataclass(frozen=True, slots=True)
class EpochTimings:
    """Wall time of one epoch's parts. None is unmeasured."""

    host_epoch_time_ms: float | None
    """None before the first epoch."""
    evaluation_time_ms: float | None
    """None where a packet does not tell it."""
    forward_time_ms: float | None = None
    backward_time_ms: float | None = None
    optimizer_step_time_ms: float | None = None
    samples_per_s: float | None = None
    """Told by packets only: what training observes depends on no clock."""
    hook_latency_ms: float | None = None
    """Time that seeds add to a step; told by packets only."""
    data_transfer_time_ms: float | None = None


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """Gradients of an epoch's last step, layer by layer, before clipping."""

    norm_per_layer: Mapping[str, float]
    """Module path → L2 norm over its own parameters."""
    zero_fraction: float
    """Share of elements that are exactly 0."""
    norm_ratio: float | None
    """Largest over smallest norm of the layers whose norm is finite and not 0; None if there is none."""
    nan_layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosedGate:
    """A gate that keeps a seed in its stage. Told when it is first asked there, and whenever other checks fail than before."""

    slot_id: str
    seed_id: str
    gate: GateResult
    samples_per_s: float | None = None
    """Told by packets only: what training observes depends on no clock."""
    hook_latency_ms: float | None = None
    """Time that seeds add to a step; told by packets only."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Everything one trial says after an epoch (or after reset, with epoch 0). Accuracies in percent."""

    env_id: int
    episode_idx: int
    epoch: int
    max_epochs: int
    signals: FastTrainingSignals
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    committed_accuracy: float
    """Validation accuracy with fossils alone; NaN where a packet does not tell it."""
    host_params: int
    seed_params: int
    """Parameters of all seeds that have a module, fossils included."""
    fossil_params: int
    learning_rate: float | None
    gradient_norm: float | None
    layers: tuple[LayerReport, ...]
    slots: tuple[SlotReport, ...]
    masks: ActionMasks
    transitions: tuple[StageTransition, ...]
    counterfactuals: Counterfactuals | None
    verdict: GovernorVerdict | None
    timings: EpochTimings
    done: bool
    """The episode is over: the horizon is reached or the governor stopped it."""
    test_accuracy: float | None = None
    """Accuracy on test data of what was kept (host and fossils); only when done."""
    gradient_flow: GradientFlow | None = None
    """None in epochs in which it was not measured."""
    closed_gates: tuple[ClosedGate, ...] = ()
    optimizer: OptimizerState | None = None

    @property
    def is_rolled_back(self) -> bool:
        """Whether the governor gave the trial up in this epoch, which ended it."""
        return self.verdict is not None and self.verdict.panic is not None

    @property
    def num_fossils(self) -> int:
        """Fossilized seeds."""
        return sum(s.seed is not None and s.seed.stage is SeedStage.FOSSILIZED for s in self.slots)


class FieldOutcome(Enum):
    """What became of a command, or of a seed."""

    SUCCESS = "success"
    NEUTRAL = "neutral"
    REGRESSION = "regression"
    ABORTED = "aborted"
    """It was not carried out, another command took its place, or its run or its seed ended before it could be judged. Of a life: the run
    ended before the seed was kept or pruned."""


@dataclass(frozen=True, slots=True)
class SeedLife:
    """One seed from germination to its end."""

    final_stage: SeedStage
    """FOSSILIZED or PRUNED; another one where its run ended first."""
    success: bool
    germinated_epoch: int
    completed_epoch: int
    epochs_per_stage: Mapping[SeedStage, int]
    accuracy_at_germination: float
    accuracy_at_completion: float
    best_accuracy: float
    commands_received: tuple[str, ...] = ()
    """Ids of the commands that named the seed or its slot, in order."""
    failure_reason: str | None = None
    """None for a seed that was kept."""

    @property
    def total_improvement(self) -> float:
        """Accuracy gained over the seed's life, in points."""
        return self.accuracy_at_completion - self.accuracy_at_germination


@dataclass(frozen=True, slots=True)
class FieldReport:
    """What was seen in the field: the outcome of one command, or the life of one seed."""

    report_id: str
    outcome: FieldOutcome
    tamiyo_policy_version: str
    """The policy that gave the command; for a life, the one that germinated the seed."""
    observation_window_epochs: int
    """Epochs that were watched."""
    metrics: Mapping[str, float]
    """Such as `accuracy_before`, `accuracy_after`, `accuracy_delta`, `loss_delta`; unmeasured ones are absent."""
    command_id: str | None = None
    """None for a life."""
    training_run_id: str | None = None
    seed_id: str | None = None
    slot_id: str | None = None
    blueprint_id: str | None = None
    follow_up_actions: tuple[str, ...] = ()
    """Operations that were ordered in the same slot within the window."""
    notes: str = ""
    life: SeedLife | None = None
    """None for the outcome of a command."""
    issued_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """How one episode ended. Accuracies in percent, measured on test data."""

    env_id: int
    episode_idx: int
    context: str
    """Host × task × width, hidden from the policy."""
    split: str
    final_accuracy: float
    param_ratio: float
    """(host + fossils) / host; 1 is no growth."""
    utility: float
    """100·(accuracy − λ·rent) of what was kept, with accuracy in 0…1."""
    stability_score: float
    num_fossilized: int
    num_contributing_fossilized: int
    episode_reward: float
    episode_length: int
    outcome_type: str
    """`completed` or `rolled_back`."""
    germinate_count: int
    prune_count: int
    fossilize_count: int
    kept: tuple[str, ...] = field(default=())
    """`slot:blueprint` of every fossil, in slot order."""
