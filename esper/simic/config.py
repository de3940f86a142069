"""Settings of rewards and of the PPO learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from esper.leyline.actions import NUM_HEADS
from esper.leyline.load import ConfigError, setting

NUM_THRESHOLDS = 3
"""Between GREEN, YELLOW, ORANGE and RED."""


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """What an episode is worth. The discount is PPO's and is passed as an argument."""

    mode: Literal["utility", "shaped"] = setting("utility", "utility: change of U, which telescopes; shaped: dense credit for each seed")
    rent_weight: float = setting(0.05, "λ in U = 100·(accuracy − λ·rent); 0 makes parameters free", ge=0.0)
    rent_form: Literal["linear", "log2"] = setting("linear", "rent of ΔP/P0: linear is the ratio itself, log2 is log2(1 + ratio)")
    rent_reference_params: int | None = setting(
        None, "P0 in the rent of U; none takes each host's own size. Tiny hosts need one size for all", unit="parameters", ge=1
    )
    epoch_rent: float = setting(0.0, "λ_e: each epoch costs 100·λ_e·rent(living ΔP/P0)/max_epochs; 0 charges only what is kept", ge=0.0)
    scale: float = setting(0.1, "factor on the reward that the learner sees", gt=0.0)
    governor_penalty: float = setting(-10.0, "reward added when the governor stops the trial, before scaling", le=0.0)
    contribution_weight: float = setting(1.0, "shaped: weight of a seed's bounded contribution in points", ge=0.0)
    improvement_steepness: float = setting(3.0, "shaped: steepness of the discount for seeds that made things worse", ge=0.0)
    timing_floor: float = setting(0.4, "shaped: share of the contribution paid for germination at epoch 0", ge=0.0, le=1.0)
    timing_epochs: int = setting(
        10, "shaped: germination epoch from which the contribution is paid in full; 0 switches it off", unit="epochs", ge=0
    )
    pbrs_weight: float = setting(0.3, "shaped: weight of the stage potentials", ge=0.0)
    stage_progress_weight: float = setting(0.3, "shaped: potential gained per epoch in a stage", ge=0.0)
    stage_progress_cap: float = setting(2.0, "shaped: most potential that staying in a stage can gain", ge=0.0)
    synergy_weight: float = setting(0.1, "shaped: weight of tanh(½·sum of pair interactions)", ge=0.0)
    step_rent_weight: float = setting(0.5, "shaped: weight of log(1 + ΔP/P0) each epoch", ge=0.0)
    step_rent_cap: float = setting(1.5, "shaped: most rent for one epoch", ge=0.0)
    rent_host_floor: int = setting(200, "shaped: smaller hosts are charged as if they had this size", unit="parameters", ge=1)
    alpha_shock_weight: float = setting(0.1958, "shaped: cost of Σ(Δα)²", ge=0.0)
    alpha_shock_cap: float = setting(1.0, "shaped: most cost of Δα in one epoch", ge=0.0)
    free_seeds: int = setting(1, "shaped: living seeds that cost no occupancy", ge=0)
    occupancy_rent: float = setting(0.01, "shaped: cost per epoch of each further living seed", ge=0.0)
    fossil_rent: float = setting(0.002, "shaped: cost per epoch of each fossil", ge=0.0)
    germinate_cost: float = setting(0.15, "shaped: cost of GERMINATE", ge=0.0)
    fossilize_cost: float = setting(0.01, "shaped: cost of FOSSILIZE", ge=0.0)
    prune_cost: float = setting(0.005, "shaped: cost of PRUNE", ge=0.0)
    retarget_cost: float = setting(0.005, "shaped: cost of SET_ALPHA_TARGET", ge=0.0)
    advance_cost: float = setting(0.1, "shaped: cost of ADVANCE out of TRAINING", ge=0.0)
    terminal_weight: float = setting(0.05, "shaped: reward per point of committed accuracy at the horizon", ge=0.0)


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Proximal policy optimisation. `gamma` is the only discount there is; rewards take it as an argument."""

    learning_rate: float = setting(1e-3, "AdamW step size at the first update", gt=0.0)
    learning_rate_final: float | None = setting(None, "step size after anneal_updates; none keeps it constant", gt=0.0)
    gamma: float = setting(1.0, "discount, also of the reward; 1 because an episode has a finite horizon", gt=0.0, le=1.0)
    gae_lambda: float = setting(0.95, "0 trusts the values, 1 trusts the returns", ge=0.0, le=1.0)
    clip: float = setting(0.2, "half-width of the trust region of the joint ratio", gt=0.0, lt=1.0)
    epochs: int = setting(4, "passes over a rollout", ge=1)
    minibatch_size: int = setting(96, "transitions per optimizer step; the last ones are spread evenly", ge=1)
    entropy_coef: float = setting(0.01, "weight of the entropy bonus at the first update", ge=0.0)
    entropy_coef_final: float = setting(0.002, "weight of the entropy bonus after anneal_updates", ge=0.0)
    anneal_updates: int = setting(0, "updates over which step size and entropy weight move linearly; 0 keeps them constant", ge=0)
    entropy_head_weights: tuple[float, ...] = setting(
        (1.0,) * NUM_HEADS, "weight of each head's normalised entropy, in action order", ge=0.0
    )
    value_coef: float = setting(0.5, "weight of the value loss", ge=0.0)
    value_huber_delta: float | None = setting(
        None, "errors beyond this many standard deviations count linearly; none is squared error", gt=0.0
    )
    max_grad_norm: float = setting(5.0, "gradients are scaled down to this norm; watch pre_clip_grad_norm before lowering it", gt=0.0)
    target_kl: float | None = setting(
        0.03, "no further step once a minibatch's KL from the acting policy exceeds it; none never stops", gt=0.0
    )
    advantage_std_floor: float = setting(0.1, "advantages are divided by no less than this, in scaled reward units", gt=0.0)
    normalise_values: bool = setting(True, "value targets in units of the returns' running mean and spread")
    normaliser_decay: float = setting(0.9, "weight of the past in the running statistics, per update", ge=0.0, lt=1.0)
    popart: bool = setting(False, "rescale the value head so that its outputs survive new statistics; needs normalise_values")
    critic_weight_decay: float = setting(0.0, "decoupled weight decay on parameters with `value` in their name; the actor has none", ge=0.0)
    risk_coef: float = setting(
        1.0, "weight of the risk head's cross-entropy; it never moves the policy, 0 leaves the head untrained", ge=0.0
    )
    risk_window_epochs: int = setting(5, "epochs after a state that its risk class is judged by", unit="epochs", ge=1)
    risk_thresholds: tuple[float, ...] = setting(
        (2.0, 5.0, 10.0),
        "points below the no-growth forecast from which what followed is YELLOW, ORANGE, RED; a rollback is CRITICAL",
        gt=0.0,
    )
    adam_epsilon: float = setting(1e-5, "added to the root of AdamW's second moment", gt=0.0)

    def __post_init__(self) -> None:
        """Check what concerns more than one value.

        Raises:
            ConfigError: If the heads' weights are not one per head, the risk thresholds are not three that rise, or values are to
                be rescaled that are not normalised.
        """
        if len(self.entropy_head_weights) != NUM_HEADS:
            raise ConfigError(f"entropy_head_weights={self.entropy_head_weights!r} should have {NUM_HEADS} numbers, one per head")
        if len(self.risk_thresholds) != NUM_THRESHOLDS or list(self.risk_thresholds) != sorted(set(self.risk_thresholds)):
            raise ConfigError(f"risk_thresholds={self.risk_thresholds!r} should be {NUM_THRESHOLDS} rising numbers: YELLOW, ORANGE, RED")
        if self.popart and not self.normalise_values:
            raise ConfigError("popart=True rescales what normalise_values=False leaves as it is; set normalise_values=True")
