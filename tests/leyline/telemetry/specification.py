"""The specification of events as data: every type, payload and field that it names, with kind and default.

Kinds are what a value is when it is measured: f float, i int, b bool, s text, l[…] list, m[…] mapping with text keys, p a nested payload.
A default is what the specification gives; `None` in our column stands wherever it gives a number for what was not measured.
"""

from __future__ import annotations

HEADS = ("slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve", "op")

EVENTS = {
    "TAMIYO_POLICY_UPDATE": "TamiyoPolicyUpdatePayload",
    "TAMIYO_INITIATED": "TamiyoInitiatedPayload",
    "TOLARIA_EPOCH_COMPLETED": "TolariaEpochPayload",
    "TOLARIA_BATCH_COMPLETED": "TolariaBatchPayload",
    "TOLARIA_ROLLBACK": "TolariaRollbackPayload",
    "SEED_GERMINATED": "SeedGerminatedPayload",
    "SEED_STAGE_CHANGED": "SeedStageChangedPayload",
    "SEED_GATE_EVALUATED": "SeedGateEvaluatedPayload",
    "SEED_FOSSILIZED": "SeedFossilizedPayload",
    "SEED_PRUNED": "SeedPrunedPayload",
    "PLATEAU_DETECTED": "TrendDetectedPayload",
    "DEGRADATION_DETECTED": "TrendDetectedPayload",
    "IMPROVEMENT_DETECTED": "TrendDetectedPayload",
    "TRAINING_STARTED": "TrainingStartedPayload",
    "CHECKPOINT_LOADED": "CheckpointLoadedPayload",
    "EPISODE_OUTCOME": "EpisodeOutcomePayload",
    "COUNTERFACTUAL_MATRIX_COMPUTED": "CounterfactualMatrixPayload",
    "ANALYTICS_SNAPSHOT": "AnalyticsSnapshotPayload",
    "GRADIENT_ANOMALY": "AnomalyDetectedPayload",
    "RATIO_EXPLOSION_DETECTED": "AnomalyDetectedPayload",
    "RATIO_COLLAPSE_DETECTED": "AnomalyDetectedPayload",
    "VALUE_COLLAPSE_DETECTED": "AnomalyDetectedPayload",
    "GRADIENT_PATHOLOGY_DETECTED": "AnomalyDetectedPayload",
    "NUMERICAL_INSTABILITY_DETECTED": "AnomalyDetectedPayload",
    "PERFORMANCE_DEGRADATION": "PerformanceDegradationPayload",
    "MEMORY_WARNING": "MemoryWarningPayload",
    "REWARD_HACKING_SUSPECTED": "RewardHackingSuspectedPayload",
    "REWARD_COMPUTED": "RewardComputedPayload",
    "INFRASTRUCTURE_SNAPSHOT": "InfrastructureSnapshotPayload",
    "HEARTBEAT": "HeartbeatPayload",
    "POLICY_UPDATE_REJECTED": "PolicyUpdateRejectedPayload",
    "RUN_FINISHED": "RunFinishedPayload",
}

LEGACY_EVENTS = {
    "PPO_UPDATE_COMPLETED": "TAMIYO_POLICY_UPDATE",
    "EPOCH_COMPLETED": "TOLARIA_EPOCH_COMPLETED",
    "BATCH_EPOCH_COMPLETED": "TOLARIA_BATCH_COMPLETED",
    "GOVERNOR_ROLLBACK": "TOLARIA_ROLLBACK",
}
LEGACY_PAYLOADS = {
    "PPOUpdatePayload": "TamiyoPolicyUpdatePayload",
    "EpochCompletedPayload": "TolariaEpochPayload",
    "BatchEpochCompletedPayload": "TolariaBatchPayload",
    "GovernorRollbackPayload": "TolariaRollbackPayload",
}

ENVELOPE = "event_id event_type timestamp seed_id slot_id epoch group_id data message severity"

REQUIRED = {
    "TrainingStartedPayload": "n_envs:i max_epochs:i task:s host_params:i slot_ids:l[s] seed:i n_episodes:i lr:f clip_ratio:f "
    "entropy_coef:f param_budget:i policy_device:s env_devices:l[s]",
    "TolariaEpochPayload": "env_id:i val_accuracy:f val_loss:f inner_epoch:i",
    "TolariaBatchPayload": "episodes_completed:i batch_idx:i avg_accuracy:f avg_reward:f total_episodes:i n_envs:i",
    "TamiyoPolicyUpdatePayload": "policy_loss:f value_loss:f entropy:f grad_norm:f kl_divergence:f clip_fraction:f nan_grad_count:i",
    "RewardComputedPayload": "env_id:i total_reward:f action_name:s value_estimate:f action_confidence:f",
    "SeedGerminatedPayload": "slot_id:s env_id:i blueprint_id:s params:i",
    "SeedStageChangedPayload": "slot_id:s env_id:i from_stage:s to_stage:s",
    "SeedFossilizedPayload": "slot_id:s env_id:i blueprint_id:s improvement:f params_added:i",
    "SeedPrunedPayload": "slot_id:s env_id:i reason:s",
    "CounterfactualMatrixPayload": "env_id:i slot_ids:l[s] configs:l[p]",
    "AnalyticsSnapshotPayload": "kind:s",
    "InfrastructureSnapshotPayload": "cuda_memory_allocated_gb:f cuda_memory_reserved_gb:f cuda_memory_active_gb:f "
    "cuda_memory_inactive_gb:f cuda_memory_peak_gb:f cuda_memory_fragmentation:f",
    "CheckpointLoadedPayload": "path:s start_episode:i",
    "TamiyoInitiatedPayload": "env_id:i epoch:i stable_count:i stabilization_epochs:i val_loss:f",
    "SeedGateEvaluatedPayload": "slot_id:s env_id:i gate:s passed:b target_stage:s checks_passed:l[s] checks_failed:l[s]",
    "TrendDetectedPayload": "batch_idx:i episodes_completed:i rolling_delta:f rolling_avg_accuracy:f prev_rolling_avg_accuracy:f",
    "AnomalyDetectedPayload": "anomaly_type:s episode:i batch:i inner_epoch:i total_episodes:i detail:s",
    "PerformanceDegradationPayload": "env_id:i current_acc:f rolling_avg_acc:f drop_percent:f threshold_percent:f training_progress:f",
    "MemoryWarningPayload": "gpu_utilization:f gpu_allocated_gb:f gpu_total_gb:f threshold:f",
    "RewardHackingSuspectedPayload": "pattern:s slot_id:s seed_id:s seed_contribution:f total_improvement:f ratio:f threshold:f",
    "TolariaRollbackPayload": "env_id:i device:s reason:s loss_at_panic:f loss_threshold:f consecutive_panics:i",
    "EpisodeOutcomePayload": "env_id:i episode_idx:i final_accuracy:f param_ratio:f num_fossilized:i num_contributing_fossilized:i "
    "episode_reward:f stability_score:f",
}
"""Payload → required fields, in order where the specification gives one."""

OPTIONAL = {
    "TrainingStartedPayload": "episode_id:s='' resume_path:s='' reward_mode:s='' start_episode:i=0 entropy_anneal:m[f]=None world_size:i=1 "
    "rank:i=0 local_rank:i=0 amp_enabled:b=False amp_dtype:s=None compile_enabled:b=False compile_backend:s=None compile_mode:s=None",
    "TolariaEpochPayload": "seeds:m[p]=None train_loss:f=None train_accuracy:f=None episode_idx:i=None forward_time_ms:f=0.0 "
    "backward_time_ms:f=0.0 optimizer_step_time_ms:f=0.0 data_transfer_time_ms:f=0.0 host_epoch_time_ms:f=0.0 "
    "grad_norm_per_layer:m[f]=None grad_zero_fraction:f=None grad_norm_ratio:f=None grad_nan_layers:l[s]=None "
    "host_grad_norm_pre_clip:f=None host_lr:f=None",
    "TolariaBatchPayload": "rolling_accuracy:f=0.0 env_accuracies:l[f]=None start_episode:i=None requested_episodes:i=None",
    "TamiyoPolicyUpdatePayload": "explained_variance:f=None entropy_loss:f=0.0 advantage_mean:f=0.0 advantage_std:f=0.0 ratio_mean:f=1.0 "
    "ratio_min:f=1.0 ratio_max:f=1.0 ratio_std:f=0.0 lr:f=None entropy_coef:f=None inf_grad_count:i=0 dead_layers:i=0 "
    "exploding_layers:i=0 layer_gradient_health:m[f]=None entropy_collapsed:b=False loss_scale:f=None amp_overflow_detected:b=False "
    "update_skipped:b=False update_time_ms:f=0.0 early_stop_epoch:i=None batch:i=0 skipped:b=False "
    "ppo_update_idx:i=1 pre_clip_grad_norm:f=0.0 "
    # trust region, value function
    "approx_kl_max:f=None kl_reverse:f=None trust_region_violations:i=None value_prediction_error_mean:f=None "
    "value_prediction_error_std:f=None td_error_mean:f=None return_mean:f=None return_std:f=None value_target_correlation:f=None "
    # policy quality, stability, efficiency
    "causal_mask_coverage:m[f]=None policy_determinism:f=None action_diversity:i=None dominant_action_ratio:f=None "
    "op_distribution:m[f]=None log_prob_underflow_count:i=None numerical_stability_score:f=None grad_clip_fraction:f=None "
    "valid_sample_ratio:f=None policy_update_magnitude:f=None gradient_utilization:f=None "
    # gradients and mixed precision
    "grad_norm_per_layer:m[f]=None grad_zero_fraction:f=None grad_norm_ratio:f=None grad_nan_layers:l[s]=None "
    "loss_scale_updates:i=None amp_overflow_count:i=None grad_scaler_state:s=None "
    # what the reference tells besides
    "value_nrmse:f=None ev_low_return_variance:b=None return_p10:f=None return_p50:f=None return_p90:f=None return_skew:f=None "
    "td_error_std:f=None bellman_error:f=None advantage_skew:f=None advantage_kurtosis:f=None advantage_positive_ratio:f=None "
    "advantage_std_floored:b=None clip_fraction_positive:f=None clip_fraction_negative:f=None op_q_values:m[f]=None "
    "op_valid_mask:m[f]=None q_variance:f=None q_spread:f=None gradient_cv:f=None forced_step_ratio:f=None "
    "usable_actor_timesteps:i=None decision_density:f=None log_prob_min:f=None log_prob_max:f=None rollback_count:i=None "
    "head_nan_detected:m[b]=None head_inf_detected:m[b]=None "
    + " ".join(
        f"head_{head}_{metric}:f=None"
        for head in HEADS
        for metric in ("entropy", "grad_norm", "kl", "clip_fraction", "active_ratio", "ratio_max", "learnable_fraction")
    ),
    "RewardComputedPayload": "base_acc_delta:f=0.0 bounded_attribution:f=0.0 seed_contribution:f=0.0 compute_rent:f=0.0 alpha_shock:f=0.0 "
    "ratio_penalty:f=0.0 stage_bonus:f=0.0 fossilize_terminal_bonus:f=0.0 blending_warning:f=0.0 holding_warning:f=0.0 val_acc:f=0.0 "
    "slot_states:m[p]=None host_accuracy:f=0.0 alternatives:l[p]=None decision_entropy:f=0.0 ab_group:s=None action_slot:s=None",
    "SeedGerminatedPayload": "alpha:f=0.0 grad_ratio:f=0.0 has_vanishing:b=False has_exploding:b=False epochs_in_stage:i=0 "
    "blend_tempo_epochs:i=5 alpha_curve:s=None episode_idx:i=None",
    "SeedStageChangedPayload": "alpha:f=None accuracy_delta:f=0.0 epochs_in_stage:i=0 grad_ratio:f=0.0 has_vanishing:b=False "
    "has_exploding:b=False",
    "SeedFossilizedPayload": "alpha:f=1.0 epochs_total:i=0 counterfactual:f=0.0",
    "SeedPrunedPayload": "blueprint_id:s=None improvement:f=0.0 auto_pruned:b=False epochs_total:i=0 counterfactual:f=0.0 "
    "initiator:s='policy'",
    "CounterfactualMatrixPayload": "strategy:s='unavailable' compute_time_ms:f=0.0",
    "AnalyticsSnapshotPayload": "action_counts:m[i]=None env_id:i=None total_reward:f=None action_name:s=None action_confidence:f=None "
    "value_estimate:f=None total_events_received:i=None shapley_values:m[f]=None",
    "InfrastructureSnapshotPayload": "gpu_utilization_pct:f=None gpu_memory_bandwidth_pct:f=None compile_graph_breaks:i=0 "
    "compile_recompilations:i=0 compile_cache_hits:i=0 compile_cache_misses:i=0 dynamo_guard_failures:i=0 avg_forward_time_ms:f=0.0 "
    "avg_backward_time_ms:f=0.0 avg_optimizer_time_ms:f=0.0 avg_data_transfer_time_ms:f=0.0 batch_window:i=10 cuda_oom_events:i=None "
    "memory_allocated_delta_gb:f=None",
    "HeartbeatPayload": "",
    "CheckpointLoadedPayload": "source:s='resume' avg_accuracy:f=None",
    "SeedGateEvaluatedPayload": "message:s=''",
    "AnomalyDetectedPayload": "gradient_stats:m[f]=None stability:m[f]=None ratio_diagnostic:m[f]=None",
    "TolariaRollbackPayload": "panic_reason:s=None penalty:f=None penalty_normalised:f=None missing_keys:l[s]=() unexpected_keys:l[s]=()",
    "EpisodeOutcomePayload": "reward_mode:s='' episode_length:i=None outcome_type:s='completed' germinate_count:i=0 prune_count:i=0 "
    "fossilize_count:i=0",
}
"""Payload → optional fields with the specification's defaults."""

ALSO_REQUIRED = {
    "HeartbeatPayload": "source uptime_sec training_thread_alive",
    "PolicyUpdateRejectedPayload": "reason",
    "RunFinishedPayload": "episodes env_steps wall_sec env_steps_per_sec stop_reason",
}
"""Fields of our own that every producer must give."""

NOWHERE = {"TamiyoPolicyUpdatePayload": ("inner_epoch", "epoch")}
"""Fields that a payload must not have."""

VIEWS = [
    "raw_events",
    "runs",
    "tolaria_epochs",
    "tamiyo_updates",
    "tolaria_batches",
    "seed_lifecycle",
    "decisions",
    "rewards",
    "anomalies",
    "episode_outcomes",
    "epochs",
    "ppo_updates",
    "batch_epochs",
]
IN_VIEW = {"tolaria_epochs": ("host_train_loss", "train_loss", "host_lr", "host_grad_norm_pre_clip")}
"""View → columns that the specification names."""
