"""A real short run, and what its database tells: every event that can occur, every view, every figure that can be measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.session import resume_run, train_run
from esper.karn.store import Store
from esper.leyline.schemas import GovernorVerdict, PanicReason
from esper.leyline.telemetry import PAYLOAD_CLASSES, TelemetryEventType
from esper.leyline.telemetry.payload import field_types
from esper.leyline.telemetry.schema import table_name
from esper.tolaria import TolariaGovernor
from tests.distributed.runs import tiny_config
from tests.leyline.telemetry import specification as spec

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS, NUM_ENVS, EPOCHS = 3, 4, 12
LIVELY = (
    f"task.max_epochs={EPOCHS}",
    "task.num_train=96",
    "growth.blueprints=[norm,conv_light]",
    "growth.min_training_epochs=1",
    "growth.min_prune_age_epochs=1",
    "growth.min_holding_epochs=0",
    "growth.embargo_epochs=1",
    "growth.tempos=[0,1]",
    "growth.styles=[LINEAR_ADD,SIGMOID_ADD]",
    "growth.alpha_targets=[1,2]",
    "ppo.minibatch_size=16",
    "ppo.target_kl=0.002",
    "ppo.anneal_updates=10",
    "ppo.max_grad_norm=0.05",
    "policy.op_bias=[0,1,0,0,2,1]",
    "engine.compile=off",
    "telemetry.level=full",
    "telemetry.infrastructure_rounds=1",
)
ALARMS = {
    "GRADIENT_ANOMALY",
    "RATIO_EXPLOSION_DETECTED",
    "RATIO_COLLAPSE_DETECTED",
    "VALUE_COLLAPSE_DETECTED",
    "GRADIENT_PATHOLOGY_DETECTED",
    "NUMERICAL_INSTABILITY_DETECTED",
    "PERFORMANCE_DEGRADATION",
    "DEGRADATION_DETECTED",
    "POLICY_UPDATE_REJECTED",
    "REWARD_HACKING_SUSPECTED",
    "MEMORY_WARNING",
}
LONG_RUNS = {"PLATEAU_DETECTED", "IMPROVEMENT_DETECTED"}
FAULTS = {"PART_LOST", "PART_RECOVERED"}
"""Of a run in one process no part is lost."""
SERVICE = {"FIELD_REPORT", "TAMIYO_STEP_EVALUATED"}
"""Told by the policy as a service, not by a training run."""
GPU = {
    "cuda_memory_allocated_gb",
    "cuda_memory_reserved_gb",
    "cuda_memory_active_gb",
    "cuda_memory_inactive_gb",
    "cuda_memory_peak_gb",
    "cuda_memory_fragmentation",
    "cuda_oom_events",
    "gpu_utilization_pct",
    "gpu_memory_bandwidth_pct",
    "memory_allocated_delta_gb",
}
UNMEASURED: dict[str, set[str]] = {
    "INFRASTRUCTURE_SNAPSHOT": GPU,
    # no loss scaler: bf16 needs none
    "TAMIYO_POLICY_UPDATE": {"loss_scale", "loss_scale_updates", "amp_overflow_count", "grad_scaler_state"},
    # a seed has no gradient before its first epoch
    "SEED_GERMINATED": {"grad_ratio", "has_vanishing", "has_exploding"},
    # parts of the shaped reward; no cohorts are compared
    "REWARD_COMPUTED": {"seed_contribution", "progress_since_germination", "attribution_discount", "timing_discount", "ab_group"},
    # steps are told as rewards
    "ANALYTICS_SNAPSHOT": {"total_reward", "action_name", "action_confidence", "value_estimate", "reward_components"},
    # the hosts are trained in fp32, and nothing is compiled
    "TRAINING_STARTED": {"amp_dtype", "compile_backend", "compile_mode"},
}
"""What this run on a CPU cannot measure."""


def panic_once(patch: pytest.MonkeyPatch) -> None:
    """Let the governor stop one trial."""
    judge, calls = TolariaGovernor.judge, iter(range(10_000))

    def judged(governor: TolariaGovernor, *losses: float) -> GovernorVerdict:
        verdict = judge(governor, *losses)
        return GovernorVerdict(PanicReason.DIVERGENCE, losses[-1], 1.0, 3) if next(calls) == 20 else verdict

    patch.setattr(TolariaGovernor, "judge", judged)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was finished, and resumed once more."""
    root = tmp_path_factory.mktemp("told") / "run"
    with pytest.MonkeyPatch.context() as patch:
        panic_once(patch)
        assert not train_run(tiny_config(*LIVELY), root, local=True)
    assert not resume_run(root, local=True)
    return root


def rows(root: Path, query: str) -> list[dict[str, Any]]:
    with Store.open(root) as store:
        return store.rows(query)


def told(root: Path) -> set[str]:
    return {row["event_type"] for row in rows(root, "SELECT DISTINCT event_type FROM raw_events")}


def test_every_event_that_can_occur_did(run: Path) -> None:
    assert set(TelemetryEventType.__members__) - told(run) <= ALARMS | LONG_RUNS | SERVICE | FAULTS


def test_a_healthy_run_raises_no_alarm(run: Path) -> None:
    assert told(run) & ALARMS == set()


@pytest.mark.parametrize("name", sorted(set(spec.EVENTS) - ALARMS - LONG_RUNS))
def test_every_figure_that_can_be_measured_is(name: str, run: Path) -> None:
    event_type = TelemetryEventType[name]
    columns = [column for column in field_types(PAYLOAD_CLASSES[event_type]) if column not in ("seed_id", "message")]
    counts = rows(run, "SELECT " + ", ".join(f'count("{column}") AS "{column}"' for column in columns) + f" FROM {table_name(event_type)}")
    empty = {column for column, count in counts[0].items() if count == 0}
    assert empty == UNMEASURED.get(name, set()) & set(columns)


@pytest.mark.parametrize("view", spec.VIEWS)
def test_every_view_answers(view: str, run: Path) -> None:
    found = rows(run, f"SELECT * FROM {view}")
    assert found or view == "anomalies"
    assert set(spec.IN_VIEW.get(view, ())) <= (found[0].keys() if found else set())


def test_updates_are_counted_within_their_round(run: Path) -> None:
    found = rows(
        run, "SELECT batch, list(ppo_update_idx ORDER BY ppo_update_idx) AS passes FROM tamiyo_updates GROUP BY batch ORDER BY batch"
    )
    assert [row["batch"] for row in found] == list(range(1, ROUNDS + 1))
    assert all(row["passes"] == list(range(1, len(row["passes"]) + 1)) for row in found)


def test_the_gradient_before_clipping_varies_and_exceeds_the_clipped_one(run: Path) -> None:
    found = rows(run, "SELECT pre_clip_grad_norm AS before, grad_norm AS after, grad_clip_fraction AS clipped FROM tamiyo_updates")
    assert len({row["before"] for row in found}) == len(found) > 1
    assert all(row["before"] > row["after"] for row in found if row["clipped"] > 0.0)
    assert any(row["clipped"] == 1.0 for row in found)
    assert all(row["after"] == pytest.approx(0.05) for row in found if row["clipped"] == 1.0)


def test_every_episode_has_one_outcome_rollbacks_included(run: Path) -> None:
    outcomes = rows(run, "SELECT group_id, env_id, outcome_type FROM episode_outcomes")
    assert len(outcomes) == len({(row["group_id"], row["env_id"]) for row in outcomes}) == ROUNDS * NUM_ENVS
    assert sorted(row["outcome_type"] for row in outcomes) == ["completed"] * (ROUNDS * NUM_ENVS - 1) + ["rolled_back"]
    assert [row["rollback_count"] for row in rows(run, "SELECT sum(rollback_count) AS rollback_count FROM tolaria_batches")] == [1]


def test_attribution_adds_up_to_what_the_seeds_gained(run: Path) -> None:
    matrices = rows(run, f"SELECT group_id, env_id, configs FROM counterfactual_matrix_computed WHERE inner_epoch = {EPOCHS}")
    gained = {}
    for row in matrices:
        worth = {tuple(config["slots_on"]): config["accuracy"] for config in row["configs"]}
        gained[row["group_id"], row["env_id"]] = worth[max(worth, key=len)] - worth[()]
    shares = rows(run, "SELECT group_id, env_id, shapley_values FROM analytics_snapshot WHERE kind = 'shapley_computed'")
    assert len(shares) == len(gained) > 0
    for row in shares:
        total = math.fsum(dict(row["shapley_values"]).values())
        assert total == pytest.approx(gained[row["group_id"], row["env_id"]], abs=1e-6)


def test_expensive_figures_are_sampled(run: Path) -> None:
    found = rows(run, "SELECT DISTINCT inner_epoch FROM tolaria_epochs WHERE forward_time_ms IS NOT NULL ORDER BY 1")
    assert [row["inner_epoch"] for row in found] == [1, 6, 11]
    flows = rows(run, "SELECT DISTINCT inner_epoch FROM tolaria_epochs WHERE grad_norm_per_layer IS NOT NULL ORDER BY 1")
    assert [row["inner_epoch"] for row in flows] == [1, 6, 11]


def test_every_part_gave_signs_of_life_to_the_end(run: Path) -> None:
    found = rows(
        run,
        "SELECT source, bool_or(training_thread_alive) AS lived, arg_max(training_thread_alive, seq) AS lives FROM heartbeat "
        "WHERE incarnation = 0 GROUP BY source",
    )
    assert {row["source"] for row in found} == {"driver", "learner", "env-0", "env-1"}
    assert all(row["lived"] and not row["lives"] for row in found)
