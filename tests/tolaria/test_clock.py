from __future__ import annotations

import time

import pytest
import torch

from esper.tolaria.engine.clock import StepClock, StepTimes
from esper.tolaria.engine.population import PopulationEngine
from tests.tolaria.trials import make_request, make_trial

CPU = torch.device("cpu")


def test_laps_belong_to_the_part_that_they_end() -> None:
    clock = StepClock(CPU, is_running=True)
    clock.lap()
    for _ in range(2):
        clock.lap("transfer")
        time.sleep(0.02)
        clock.lap("forward")
        clock.lap("backward")
        clock.lap("optimizer")
        time.sleep(0.02)
        clock.lap()
    times = clock.times()
    assert times is not None
    assert times.forward_sec >= 0.04
    assert max(times.transfer_sec, times.backward_sec, times.optimizer_sec) < 0.02


def test_a_clock_that_stands_tells_nothing() -> None:
    clock = StepClock(CPU, is_running=False)
    clock.lap("forward")
    assert clock.times() is None


def test_a_members_share() -> None:
    assert StepTimes(1.0, 2.0, 4.0, 8.0).divided_by(4) == (0.25, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("num_members", [1, 2])
def test_both_engines_time_their_steps_where_asked(num_members: int) -> None:
    engines = [make_trial(make_request(env_id=env)).engine for env in range(num_members)]
    population = PopulationEngine(engines)
    for epoch, is_timed in enumerate((False, True)):
        results = (
            population.train_epoch(epoch, is_timed=is_timed) if num_members > 1 else [engines[0].train_epoch(epoch, is_timed=is_timed)]
        )
        for result in results:
            assert (result.step_times is not None) is is_timed
            if result.step_times is not None:
                assert all(seconds > 0.0 for seconds in result.step_times)
                assert sum(result.step_times) < result.wall_sec


def test_timing_changes_no_number() -> None:
    plain, timed = make_trial().engine, make_trial().engine
    assert [plain.train_epoch(epoch) for epoch in range(2)] == [timed.train_epoch(epoch, is_timed=True) for epoch in range(2)]
