"""What the driver tells of rounds: their figures, and whatever is out of bounds in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.rounds import Counts, RoundReport
from esper.distributed.story import RunStory
from esper.leyline.rng import SeedTree
from esper.leyline.telemetry import PartFaultPayload
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.transport import InProcessTransport
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from tests.distributed.runs import tiny_config
from tests.fakes.policy import FakePolicy
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import FlakyTransport, event
from tests.simic.test_outcomes import make_outcome
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

if TYPE_CHECKING:
    from esper.simic.update_report import UpdateReport


@pytest.fixture(scope="module")
def update() -> UpdateReport:
    with SeedTree(0).torch_scope():
        learner = Learner(FakePolicy(NUM_CHANNELS, NUM_SLOTS), PPOConfig(epochs=2), SeedTree(0))
    play_round(World(0), learner, 0, groups=(0,))
    return learner.update()


class Teller:
    """A run's story, told to memory."""

    def __init__(self, num_rounds: int = 20) -> None:
        self.sink = MemorySink()
        emitter = BufferedEmitter("driver", 0, transport=InProcessTransport(self.sink), config=TelemetryConfig(flush_rows=1))
        self.story = RunStory(tiny_config(f"rollout.rounds={num_rounds}"), emitter)
        self._num_rounds = 0

    def round(self, update: UpdateReport, accuracy: float, **outcome: Any) -> None:
        self._num_rounds += 1
        outcomes = tuple(replace(make_outcome(accuracy + i, 1.0 + 0.1 * i), env_id=i, context=f"context-{i}", **outcome) for i in range(4))
        counts = Counts(rounds=self._num_rounds, episodes=4 * self._num_rounds, env_steps=20 * self._num_rounds)
        self.story.round_finished(RoundReport(counts, outcomes, update, 1.0))

    def names(self) -> list[str]:
        return [
            batch.column("event_type")[0].as_py() for batch in self.sink.batches if batch.column("event_type")[0].as_py() != "HEARTBEAT"
        ]


def test_healthy_rounds_are_told_without_an_alarm(update: UpdateReport) -> None:
    teller = Teller()
    for index in range(7):
        teller.round(update, 50.0 + index % 2)
    assert teller.names() == ["TOLARIA_BATCH_COMPLETED"] * 7
    last = teller.sink.rows("TOLARIA_BATCH_COMPLETED")[-1]
    assert (last["avg_accuracy"], last["rolling_accuracy"], last["requested_episodes"]) == (51.5, 52.0, 4)
    assert last["rollback_count"] == 0


def test_a_round_tells_which_of_its_episodes_are_worth_having(update: UpdateReport) -> None:
    teller = Teller()
    teller.round(update, 50.0, outcome_type="rolled_back")
    (row,) = teller.sink.rows("TOLARIA_BATCH_COMPLETED")
    assert row["num_pareto"] == 4
    assert row["hypervolume"] == pytest.approx(53 * 0.7 + 52 * 0.1 + 51 * 0.1 + 50 * 0.1)
    assert row["rollback_count"] == 4


def test_what_is_wrong_with_an_update_is_told_with_its_round(update: UpdateReport) -> None:
    passes = tuple(replace(done, policy=replace(done.policy, ratio_p99=9.0, ratio_max=30.0)) for done in update.passes)
    teller = Teller()
    teller.round(update, 50.0)
    teller.round(replace(update, passes=passes), 50.0)
    found: Any = teller.sink.rows("RATIO_EXPLOSION_DETECTED")
    assert [(row["batch"], row["episode"], row["inner_epoch"], row["severity"]) for row in found] == [
        (2, 8, 1, "warning"),
        (2, 8, 2, "warning"),
    ]
    assert {row["group_id"] for row in found} == {"train/learned/1"}
    assert dict(found[0]["ratio_diagnostic"])["ratio_max"] == 30.0
    assert {row["total_episodes"] for row in found} == {80}


def test_an_update_without_a_finite_gradient_is_rejected_and_said_so(update: UpdateReport) -> None:
    sick = replace(update.passes[0], gradients=replace(update.passes[0].gradients, update_skipped=True, nan_grad_count=7))
    teller = Teller()
    teller.round(replace(update, passes=(sick, update.passes[1])), 50.0)
    (rejected,) = teller.sink.rows("POLICY_UPDATE_REJECTED")
    assert (rejected["ppo_update_idx"], rejected["nan_grad_count"], rejected["severity"]) == (1, 7, "error")
    assert teller.sink.rows("NUMERICAL_INSTABILITY_DETECTED")


@pytest.mark.parametrize(
    ("later", "event_type"), [(60.0, "IMPROVEMENT_DETECTED"), (40.0, "DEGRADATION_DETECTED"), (50.0, "PLATEAU_DETECTED")]
)
def test_trends_of_the_accuracy_are_told_once(later: float, event_type: str, update: UpdateReport) -> None:
    teller = Teller(num_rounds=8)
    for index in range(8):
        teller.round(update, (50.0 if index < 4 else later) + 0.1 * (index % 2))
    (trend,) = teller.sink.rows(event_type)
    assert trend["batch_idx"] == 8
    assert trend["rolling_delta"] == pytest.approx(later - 50.0, abs=1e-6)


def test_a_sudden_fall_is_told_as_degraded_performance(update: UpdateReport) -> None:
    teller = Teller()
    for accuracy in (50.0, 50.0, 50.0, 50.0, 40.0):
        teller.round(update, accuracy)
    (drop,) = teller.sink.rows("PERFORMANCE_DEGRADATION")
    assert drop["drop_percent"] == pytest.approx(20.0)
    assert drop["training_progress"] == 0.25
    assert drop["severity"] == "warning"


def test_a_run_that_ends_gives_its_last_sign_of_life(update: UpdateReport) -> None:
    teller = Teller()
    teller.round(update, 50.0)
    teller.story.finished(Counts(1, 4, 20), "completed", None)
    assert [row["training_thread_alive"] for row in teller.sink.rows("HEARTBEAT")] == [True, False]


def test_a_resumed_run_tells_the_speed_of_this_life_alone(update: UpdateReport) -> None:
    teller = Teller()
    teller.round(update, 50.0, episode_length=5)
    teller.story.finished(Counts(rounds=100, episodes=400, env_steps=100_000), "completed", None)
    (end,) = teller.sink.rows("RUN_FINISHED")
    assert (end["env_steps"], end["env_steps_per_sec"]) == (100_000, 20.0)


def test_a_life_without_a_round_has_no_speed() -> None:
    teller = Teller()
    teller.story.finished(Counts(rounds=3, episodes=12, env_steps=60), "completed", None)
    (end,) = teller.sink.rows("RUN_FINISHED")
    assert end["env_steps_per_sec"] is None


def test_events_that_the_driver_has_to_give_up_are_told_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    transport = FlakyTransport(MemorySink())
    transport.is_full = True
    emitter = BufferedEmitter("driver", 0, transport=transport, config=TelemetryConfig(flush_rows=1, spool_batches=1))
    story = RunStory(tiny_config("telemetry.console=rounds"), emitter)
    for _ in range(3):
        story.emit(event("PART_RECOVERED", PartFaultPayload(part="env-0", fault="died", remedy="restart", num_faults=1, life=2)))
    told = " ".join(capsys.readouterr().err.split())
    assert "telemetry lost 2 events of driver" in told
