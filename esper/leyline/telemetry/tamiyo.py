"""Payloads about the policy: its updates, and when it may begin to act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.leyline.telemetry.payload import Payload


@dataclass(frozen=True, slots=True)
class TamiyoPolicyUpdatePayload(Payload):
    """One pass of PPO over a round's data. None is unmeasured."""

    policy_loss: float
    value_loss: float
    entropy: float | None
    """None, as all that compares policies, where every step was forced."""
    grad_norm: float | None
    """After clipping; infinite on an overflow under mixed precision, None where no step was taken."""
    kl_divergence: float | None
    clip_fraction: float | None
    nan_grad_count: int
    explained_variance: float | None = None
    """1 − Var(return − value) / Var(return); NaN where returns do not vary."""
    ppo_update_idx: int = 1
    """1, 2, 3 … within a round."""
    pre_clip_grad_norm: float | None = None
    """What `clip_grad_norm_` returned."""
    entropy_loss: float | None = None
    advantage_mean: float | None = None
    advantage_std: float | None = None
    ratio_mean: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    ratio_std: float | None = None
    lr: float | None = None
    entropy_coef: float | None = None
    inf_grad_count: int = 0
    dead_layers: int | None = None
    exploding_layers: int | None = None
    layer_gradient_health: Mapping[str, float] | None = None
    """Parameter name → 0…1, of an update's last pass; None in the passes before."""
    entropy_collapsed: bool = False
    loss_scale: float | None = None
    amp_overflow_detected: bool = False
    update_skipped: bool = False
    """The optimizer did not step, because gradients were not finite."""
    update_time_ms: float | None = None
    early_stop_epoch: int | None = None
    """Pass at which KL exceeded its target; None if it did not."""
    batch: int = 0
    """Number of the round."""
    skipped: bool = False
    """Nothing was learned from this round, e.g. because every step was forced."""
    policy_version: int | None = None
    """Rounds that the policy has learned from, this one included."""
    env_steps: int | None = None
    """Taken in the run so far."""

    # risk head, judged by what followed; in the first pass before the update learns from it
    risk_loss: float | None = None
    """Cross-entropy, before its coefficient."""
    risk_calibration_error: float | None = None
    """Expected calibration error, 0…1."""
    risk_brier_score: float | None = None
    """0 is perfect, 2 the worst."""
    risk_class_shares: Mapping[str, float] | None = None
    """GREEN … CRITICAL → share of states that it followed."""
    risk_predicted_shares: Mapping[str, float] | None = None
    """GREEN … CRITICAL → mean probability given to it."""

    # trust region
    approx_kl_max: float | None = None
    kl_reverse: float | None = None
    """KL(new‖old)."""
    trust_region_violations: int | None = None
    """Samples whose ratio left the clip range."""
    clip_fraction_positive: float | None = None
    """Share of samples whose ratio is above the clip range."""
    clip_fraction_negative: float | None = None
    """Share of samples whose ratio is below it."""
    ratio_p01: float | None = None
    ratio_p99: float | None = None
    """Below and above it lies one sample in a hundred; an extreme of one sample says little."""

    # value function
    value_prediction_error_mean: float | None = None
    """V − return, in reward units."""
    value_prediction_error_std: float | None = None
    td_error_mean: float | None = None
    return_mean: float | None = None
    return_std: float | None = None
    value_target_correlation: float | None = None
    """Between values and returns; below 0.5 the value function is not learning."""
    value_nrmse: float | None = None
    """Root mean square of V − return over the spread of the returns; 1 is a critic that knows only their mean."""
    ev_low_return_variance: bool | None = None
    """Returns hardly vary, so explained variance says nothing."""
    td_error_std: float | None = None
    bellman_error: float | None = None
    """Mean square of the temporal difference errors."""
    return_p10: float | None = None
    return_p50: float | None = None
    return_p90: float | None = None
    return_skew: float | None = None
    advantage_skew: float | None = None
    advantage_kurtosis: float | None = None
    """Excess; 0 is a normal distribution."""
    advantage_positive_ratio: float | None = None
    advantage_std_floored: bool | None = None
    """Advantages were divided by the floor, because their own spread is smaller."""
    op_q_values: Mapping[str, float] | None = None
    """Operation → mean return after it was taken; operations that were not taken are absent."""
    op_valid_mask: Mapping[str, float] | None = None
    """Operation → share of decisions in which it was legal."""
    q_variance: float | None = None
    """Variance of `op_q_values` over operations."""
    q_spread: float | None = None
    """Largest minus smallest of `op_q_values`."""

    # entropy: normalised by the logarithm of the number of legal choices, 0…1.
    head_op_entropy: float | None = None
    head_slot_entropy: float | None = None
    head_blueprint_entropy: float | None = None
    head_style_entropy: float | None = None
    head_tempo_entropy: float | None = None
    head_alpha_target_entropy: float | None = None
    head_alpha_speed_entropy: float | None = None
    head_alpha_curve_entropy: float | None = None
    # grad_norm: l2 norm over the head's own parameters, before clipping.
    head_op_grad_norm: float | None = None
    head_slot_grad_norm: float | None = None
    head_blueprint_grad_norm: float | None = None
    head_style_grad_norm: float | None = None
    head_tempo_grad_norm: float | None = None
    head_alpha_target_grad_norm: float | None = None
    head_alpha_speed_grad_norm: float | None = None
    head_alpha_curve_grad_norm: float | None = None
    # kl: KL(old‖new) of the head.
    head_op_kl: float | None = None
    head_slot_kl: float | None = None
    head_blueprint_kl: float | None = None
    head_style_kl: float | None = None
    head_tempo_kl: float | None = None
    head_alpha_target_kl: float | None = None
    head_alpha_speed_kl: float | None = None
    head_alpha_curve_kl: float | None = None
    # clip_fraction: share of samples whose head ratio left the clip range.
    head_op_clip_fraction: float | None = None
    head_slot_clip_fraction: float | None = None
    head_blueprint_clip_fraction: float | None = None
    head_style_clip_fraction: float | None = None
    head_tempo_clip_fraction: float | None = None
    head_alpha_target_clip_fraction: float | None = None
    head_alpha_speed_clip_fraction: float | None = None
    head_alpha_curve_clip_fraction: float | None = None
    # active_ratio: share of samples in which the head changed what was done.
    head_op_active_ratio: float | None = None
    head_slot_active_ratio: float | None = None
    head_blueprint_active_ratio: float | None = None
    head_style_active_ratio: float | None = None
    head_tempo_active_ratio: float | None = None
    head_alpha_target_active_ratio: float | None = None
    head_alpha_speed_active_ratio: float | None = None
    head_alpha_curve_active_ratio: float | None = None
    # ratio_max: largest probability ratio of the head, over samples in which it mattered.
    head_op_ratio_max: float | None = None
    head_slot_ratio_max: float | None = None
    head_blueprint_ratio_max: float | None = None
    head_style_ratio_max: float | None = None
    head_tempo_ratio_max: float | None = None
    head_alpha_target_ratio_max: float | None = None
    head_alpha_speed_ratio_max: float | None = None
    head_alpha_curve_ratio_max: float | None = None
    # learnable_fraction: share of samples in which the head had more than one legal choice.
    head_op_learnable_fraction: float | None = None
    head_slot_learnable_fraction: float | None = None
    head_blueprint_learnable_fraction: float | None = None
    head_style_learnable_fraction: float | None = None
    head_tempo_learnable_fraction: float | None = None
    head_alpha_target_learnable_fraction: float | None = None
    head_alpha_speed_learnable_fraction: float | None = None
    head_alpha_curve_learnable_fraction: float | None = None
    head_nan_detected: Mapping[str, bool] | None = None
    """Head → whether one of its log-probabilities was NaN."""
    head_inf_detected: Mapping[str, bool] | None = None
    causal_mask_coverage: Mapping[str, float] | None = None
    """Head → share of the batch in which it matters."""

    # policy quality
    policy_determinism: float | None = None
    """1 − H / H_max; above 0.95 the policy is nearly deterministic."""
    action_diversity: int | None = None
    """Different joint actions in the batch."""
    dominant_action_ratio: float | None = None
    """Share of the most common joint action; above 0.8 is a collapse."""
    op_distribution: Mapping[str, float] | None = None
    """Operation → share of decisions."""

    # numerical stability
    log_prob_underflow_count: int | None = None
    """Samples with log-probability below −50."""
    log_prob_min: float | None = None
    """Smallest joint log-probability of an action taken, when it was taken."""
    log_prob_max: float | None = None
    numerical_stability_score: float | None = None
    """0…1; 1 is healthy."""
    grad_clip_fraction: float | None = None
    """Share of optimizer steps whose gradient was clipped."""
    grad_norm_per_layer: Mapping[str, float] | None = None
    """Parameter name → norm before clipping, of an update's last pass; None in the passes before."""
    grad_zero_fraction: float | None = None
    grad_norm_ratio: float | None = None
    """Largest over smallest norm of a layer."""
    grad_nan_layers: tuple[str, ...] | None = None
    loss_scale_updates: int | None = None
    amp_overflow_count: int | None = None
    grad_scaler_state: str | None = None
    """`growing`, `stable` or `decaying`."""

    # sample efficiency
    valid_sample_ratio: float | None = None
    """Share of steps that enter the actor loss."""
    policy_update_magnitude: float | None = None
    """L2 norm of the weights' change."""
    forced_step_ratio: float | None = None
    """Share of steps with one legal joint action."""
    usable_actor_timesteps: int | None = None
    """Steps that enter the actor loss."""
    decision_density: float | None = None
    """Share of the steps with a choice in which something other than WAIT was done."""
    gradient_cv: float | None = None
    """Standard deviation over mean of the gradient norms of the pass's steps, before clipping."""
    rollback_count: int | None = None
    """Episodes of the round that the governor ended."""
    gradient_utilization: float | None = None
    """Norm of the gradient that was applied over the largest allowed."""


@dataclass(frozen=True, slots=True)
class TamiyoInitiatedPayload(Payload):
    """A host has settled, so that growth may begin."""

    env_id: int
    epoch: int
    stable_count: int
    stabilization_epochs: int
    val_loss: float


@dataclass(frozen=True, slots=True)
class PolicyUpdateRejectedPayload(Payload):
    """An update was undone or refused; the policy is as it was.

    By the learner, with its round and pass, or by a service, with the file that was offered.
    """

    reason: str
    batch: int | None = None
    ppo_update_idx: int | None = None
    nan_grad_count: int | None = None
    kl_divergence: float | None = None
    pre_clip_grad_norm: float | None = None
    policy_version: int | None = None
    rejection: str | None = None
    """Kind of refusal: `unreadable`, `altered`, `architecture`, `digest` or `weights`."""
    path: str | None = None
    """What was offered."""
    tamiyo_policy_version: str | None = None
    """The policy that stays; None where there is none yet."""


@dataclass(frozen=True, slots=True)
class TamiyoStepEvaluatedPayload(Payload):
    """A service answered one packet. None is unmeasured."""

    epoch: int
    packet_id: str
    command_id: str
    operation: str
    confidence: float
    """Probability of the operation, and of the slot where it names one, 0…1."""
    risk_level: str
    tamiyo_policy_version: str
    architecture_version: str
    gnn_inference_latency_ms: float
    """Packet in, command out."""
    gnn_inference_latency_p50_ms: float
    """Over the last steps, this one included."""
    gnn_inference_latency_p95_ms: float
    gnn_compile_enabled: bool
    gnn_feature_coverage: float
    """Mean share of features that were measured, 0…1."""
    gnn_feature_coverage_types: Mapping[str, float]
    """Node or edge family → share of its features that were measured."""
    health_indicators: Mapping[str, str]
    """`policy`: architecture; `gnn_compile`: 1 or 0."""
    gnn_compile_warm_ms: float | None = None
    blending_method: str | None = None
    """None where the command blends nothing."""
    training_run_id: str | None = None
    slot_id: str | None = None
    seed_id: str | None = None


@dataclass(frozen=True, slots=True)
class FieldReportPayload(Payload):
    """What became of a command, or of a seed."""

    report_id: str
    outcome: str
    """SUCCESS, NEUTRAL, REGRESSION or ABORTED."""
    tamiyo_policy_version: str
    observation_window_epochs: int
    metrics: Mapping[str, float]
    command_id: str | None = None
    """None for the life of a seed."""
    training_run_id: str | None = None
    seed_id: str | None = None
    slot_id: str | None = None
    blueprint_id: str | None = None
    final_stage: str | None = None
    """Of a seed's life; None for a command."""
    follow_up_actions: tuple[str, ...] = ()
    notes: str = ""
