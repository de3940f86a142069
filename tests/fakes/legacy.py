"""A stream as it was written before events had their present names: JSON lines, one of every kind."""

from __future__ import annotations

from typing import Any

REWARD_PARTS = {
    "base_acc_delta": 0.4,
    "bounded_attribution": 0.25,
    "seed_contribution": 1.5,
    "compute_rent": -0.1,
    "alpha_shock": 0.0,
    "ratio_penalty": 0.0,
    "stage_bonus": 0.3,
    "val_acc": 61.5,
}
ANOMALY = {"anomaly_type": "ratio", "episode": 8, "batch": 2, "inner_epoch": 150, "total_episodes": 40, "detail": "ratio 9.1 is above 5"}
TREND = {
    "batch_idx": 2,
    "episodes_completed": 8,
    "rolling_delta": -2.5,
    "rolling_avg_accuracy": 58.0,
    "prev_rolling_avg_accuracy": 60.5,
}
SEED = {"slot_id": "r0c0", "env_id": 1}
OLD_EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "TRAINING_STARTED",
        {
            "n_envs": 4,
            "max_epochs": 150,
            "task": "cifar_baseline",
            "host_params": 6000,
            "slot_ids": ["r0c0", "r0c1", "r0c2"],
            "seed": 42,
            "n_episodes": 40,
            "lr": 3e-4,
            "clip_ratio": 0.2,
            "entropy_coef": 0.05,
            "param_budget": 500000,
            "policy_device": "cuda:0",
            "env_devices": ["cuda:0"],
            "entropy_anneal": {"start": 0.05, "end": 0.01},
        },
    ),
    ("CHECKPOINT_LOADED", {"path": "ckpt.pt", "start_episode": 4}),
    ("TAMIYO_INITIATED", {"env_id": 1, "epoch": 12, "stable_count": 3, "stabilization_epochs": 3, "val_loss": 1.2}),
    ("SEED_GERMINATED", {**SEED, "blueprint_id": "conv_light", "params": 37000, "blend_tempo_epochs": 5}),
    ("SEED_STAGE_CHANGED", {**SEED, "from_stage": "BLENDING", "to_stage": "PROBATIONARY", "accuracy_delta": 0.0, "alpha": 1.0}),
    (
        "SEED_GATE_EVALUATED",
        {**SEED, "gate": "G5", "passed": True, "target_stage": "FOSSILIZED", "checks_passed": ["healthy"], "checks_failed": []},
    ),
    ("SEED_FOSSILIZED", {**SEED, "blueprint_id": "conv_light", "improvement": 3.1, "params_added": 37000, "counterfactual": 2.4}),
    ("SEED_PRUNED", {**SEED, "reason": "no_improvement", "improvement": -0.5, "auto_pruned": True, "epochs_total": 9}),
    (
        "EPOCH_COMPLETED",
        {
            "env_id": 1,
            "val_accuracy": 61.5,
            "val_loss": 1.1,
            "inner_epoch": 7,
            "seeds": {
                "r0c0": {
                    "stage": "PROBATIONARY",
                    "blueprint_id": "conv_light",
                    "alpha": 1.0,
                    "epochs_in_stage": 2,
                    "seed_params": 37000,
                    "accuracy_delta": 0.0,
                    "grad_ratio": 0.4,
                    "has_vanishing": False,
                    "has_exploding": False,
                    "tempo": 5,
                }
            },
        },
    ),
    (
        "BATCH_EPOCH_COMPLETED",
        {
            "episodes_completed": 8,
            "batch_idx": 2,
            "avg_accuracy": 60.0,
            "avg_reward": 0.0,
            "total_episodes": 40,
            "n_envs": 4,
            "rolling_accuracy": 59.0,
            "env_accuracies": [60.0, 60.0, 58.0, 62.0],
        },
    ),
    (
        "PPO_UPDATE_COMPLETED",
        {
            "policy_loss": -0.02,
            "value_loss": 0.9,
            "entropy": 1.1,
            "grad_norm": 1.0,
            "kl_divergence": 0.01,
            "clip_fraction": 0.12,
            "nan_grad_count": 0,
            "explained_variance": 0.4,
            "ratio_mean": 1.0,
            "layer_gradient_health": {"lstm": 1.0},
            "head_slot_entropy": {"r0c0": 0.8, "r0c1": 0.6},
            "head_blueprint_grad_norm": {"layer0": 0.5},
            "inner_epoch": 150,
            "batch": 2,
        },
    ),
    (
        "GOVERNOR_ROLLBACK",
        {
            "env_id": 1,
            "device": "cuda:0",
            "reason": "loss",
            "loss_at_panic": 15.0,
            "loss_threshold": 12.0,
            "consecutive_panics": 3,
            "panic_reason": "governor_divergence",
        },
    ),
    (
        "ANALYTICS_SNAPSHOT",
        {
            "kind": "last_action",
            "env_id": 1,
            "total_reward": 0.0,
            "action_name": "WAIT",
            "action_confidence": 0.7,
            "value_estimate": 0.2,
            **REWARD_PARTS,
        },
    ),
    (
        "REWARD_COMPUTED",
        {
            "env_id": 1,
            "total_reward": 0.45,
            "action_name": "WAIT",
            "value_estimate": 0.2,
            "action_confidence": 0.7,
            "slot_states": {
                "r0c0": {
                    "stage": "PROBATIONARY",
                    "blueprint_id": "conv_light",
                    "alpha": 1.0,
                    "epochs_in_stage": 2,
                    "seed_params": 37000,
                    "improvement": 3.0,
                    "tempo": 5,
                }
            },
        },
    ),
    ("ANALYTICS_SNAPSHOT", {"kind": "action_distribution", "action_counts": {"WAIT": 5, "GERMINATE": 2}}),
    (
        "COUNTERFACTUAL_MATRIX_COMPUTED",
        {
            "env_id": 1,
            "slot_ids": ["r0c0", "r0c1"],
            "configs": [{"seed_mask": [True, False], "accuracy": 61.0}, {"seed_mask": [False, False], "accuracy": 58.0}],
            "strategy": "full_factorial",
        },
    ),
    (
        "EPISODE_OUTCOME",
        {
            "env_id": 1,
            "episode_idx": 8,
            "final_accuracy": 61.5,
            "param_ratio": 1.2,
            "num_fossilized": 1,
            "num_contributing_fossilized": 1,
            "episode_reward": 0.0,
            "stability_score": 0.9,
        },
    ),
    ("PLATEAU_DETECTED", TREND),
    ("DEGRADATION_DETECTED", TREND),
    ("IMPROVEMENT_DETECTED", TREND),
    ("GRADIENT_ANOMALY", ANOMALY),
    ("RATIO_EXPLOSION_DETECTED", ANOMALY),
    ("RATIO_COLLAPSE_DETECTED", ANOMALY),
    ("VALUE_COLLAPSE_DETECTED", ANOMALY),
    ("GRADIENT_PATHOLOGY_DETECTED", ANOMALY),
    ("NUMERICAL_INSTABILITY_DETECTED", ANOMALY),
    (
        "PERFORMANCE_DEGRADATION",
        {
            "env_id": 1,
            "current_acc": 50.0,
            "rolling_avg_acc": 60.0,
            "drop_percent": 16.7,
            "threshold_percent": 10.0,
            "training_progress": 0.5,
        },
    ),
)
"""Name and payload of each, in the order in which they happened."""


def old_lines() -> list[dict[str, Any]]:
    """The stream as it was read from a file."""
    return [
        {
            "event_id": f"00000000-0000-4000-8000-{i:012d}",
            "event_type": name,
            "timestamp": f"2025-12-27T10:{i:02d}:00+00:00",
            "seed_id": "seed_r0c0" if name.startswith("SEED_") else None,
            "group_id": "default",
            "data": data,
            "message": "",
            "severity": "info",
        }
        for i, (name, data) in enumerate(OLD_EVENTS)
    ]
