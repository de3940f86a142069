"""Payloads about fitness: rewards, outcomes, attribution, trends and anomalies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.leyline.telemetry.kasmina import SeedSnapshot
from esper.leyline.telemetry.payload import Payload


@dataclass(frozen=True, slots=True)
class ActionAlternative(Payload):
    """An action that was not taken."""

    action_name: str
    probability: float


@dataclass(frozen=True, slots=True)
class RewardComputedPayload(Payload):
    """One step's reward. A part that does not apply is 0; evidence that was not measured is None."""

    env_id: int
    total_reward: float
    action_name: str
    value_estimate: float | None
    """In the learner's reward units; None for a policy without values."""
    action_confidence: float
    """Joint probability of the action, 0…1."""
    base_acc_delta: float | None = None
    bounded_attribution: float = 0.0
    seed_contribution: float | None = None
    compute_rent: float = 0.0
    alpha_shock: float = 0.0
    ratio_penalty: float = 0.0
    stage_bonus: float = 0.0
    fossilize_terminal_bonus: float = 0.0
    blending_warning: float = 0.0
    holding_warning: float = 0.0
    utility_change: float = 0.0
    occupancy_rent: float = 0.0
    fossilized_rent: float = 0.0
    pbrs_bonus: float = 0.0
    synergy_bonus: float = 0.0
    action_shaping: float = 0.0
    terminal_bonus: float = 0.0
    governor_penalty: float = 0.0
    val_acc: float | None = None
    utility: float | None = None
    progress_since_germination: float | None = None
    attribution_discount: float | None = None
    timing_discount: float | None = None
    growth_ratio: float | None = None
    """Added parameters over host parameters."""
    slot_states: Mapping[str, SeedSnapshot] | None = None
    host_accuracy: float | None = None
    """Validation accuracy with every seed off, in percent."""
    alternatives: tuple[ActionAlternative, ...] | None = None
    """Operations that were possible and not taken, the likeliest first."""
    decision_entropy: float | None = None
    """Of the distribution over operations, in nats."""
    ab_group: str | None = None
    action_slot: str | None = None
    episode_idx: int | None = None
    inner_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class CounterfactualConfig(Payload):
    """Accuracy with exactly these slots on."""

    slots_on: tuple[str, ...]
    accuracy: float
    """Percent."""


@dataclass(frozen=True, slots=True)
class CounterfactualMatrixPayload(Payload):
    """What a trial's accuracy would be with other sets of seeds."""

    env_id: int
    slot_ids: tuple[str, ...]
    configs: tuple[CounterfactualConfig, ...]
    strategy: str = "unavailable"
    compute_time_ms: float | None = None
    episode_idx: int | None = None
    inner_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class AnalyticsSnapshotPayload(Payload):
    """A snapshot for displays; which fields are set depends on `kind`."""

    kind: str
    """`action_distribution`, `last_action` or `shapley_computed`."""
    action_counts: Mapping[str, int] | None = None
    env_id: int | None = None
    total_reward: float | None = None
    action_name: str | None = None
    action_confidence: float | None = None
    value_estimate: float | None = None
    reward_components: Mapping[str, float] | None = None
    shapley_values: Mapping[str, float] | None = None
    """Slot id → points of accuracy; they add up to what all seeds together gain."""
    shapley_standard_errors: Mapping[str, float] | None = None
    """Slot id → standard error; 0 where exact, absent where a single sample leaves it unmeasured."""
    interactions: Mapping[str, float] | None = None
    """`slot+slot` → points that two seeds gain together beyond what each gains alone."""
    total_events_received: int | None = None
    episode_idx: int | None = None


@dataclass(frozen=True, slots=True)
class EpisodeOutcomePayload(Payload):
    """How one episode ended. Accuracies in percent."""

    env_id: int
    episode_idx: int
    final_accuracy: float
    """Of what was kept."""
    param_ratio: float
    """(host + fossils) / host; 1 is no growth."""
    num_fossilized: int
    num_contributing_fossilized: int
    episode_reward: float
    stability_score: float
    context: str = ""
    """Host × task × width; empty in streams of earlier versions, as are `split` and `policy`."""
    split: str = ""
    """Which contexts the episode was drawn from, e.g. `train` or `held_out`."""
    utility: float | None = None
    """Points; None in streams of earlier versions, which had none."""
    reward_mode: str = ""
    episode_length: int | None = None
    outcome_type: str = "completed"
    """`completed` or `rolled_back`."""
    germinate_count: int = 0
    prune_count: int = 0
    fossilize_count: int = 0
    kept: tuple[str, ...] = ()
    """`slot:blueprint` of every fossil, in slot order."""
    test_accuracy: float | None = None
    """Of what was kept, on test data; None is unmeasured."""
    policy: str = ""
    """Row label of the policy that played."""


@dataclass(frozen=True, slots=True)
class TrendDetectedPayload(Payload):
    """Accuracy over rounds has flattened, fallen or risen."""

    batch_idx: int
    episodes_completed: int
    rolling_delta: float
    """Points."""
    rolling_avg_accuracy: float
    prev_rolling_avg_accuracy: float


@dataclass(frozen=True, slots=True)
class AnomalyDetectedPayload(Payload):
    """Something about an update or an episode is out of bounds."""

    anomaly_type: str
    """Kind of finding, e.g. `ratio_explosion` or `head_collapse`."""
    episode: int
    """In the run so far."""
    batch: int
    """Number of the round."""
    inner_epoch: int
    """Pass of PPO that it was found in, from 1."""
    total_episodes: int
    detail: str
    gradient_stats: Mapping[str, float] | None = None
    """Evidence about gradients, as are the next two about losses and entropies, and about probability ratios."""
    stability: Mapping[str, float] | None = None
    ratio_diagnostic: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class PerformanceDegradationPayload(Payload):
    """A trial's accuracy fell well below its rolling mean."""

    env_id: int
    current_acc: float
    rolling_avg_acc: float
    drop_percent: float
    threshold_percent: float
    training_progress: float
    """0…1."""


@dataclass(frozen=True, slots=True)
class RewardHackingSuspectedPayload(Payload):
    """A seed is credited with more than the trial gained."""

    pattern: str
    slot_id: str
    seed_id: str
    seed_contribution: float
    total_improvement: float
    ratio: float | None
    """Contribution over improvement; None where the improvement is 0."""
    threshold: float
    env_id: int | None = None
