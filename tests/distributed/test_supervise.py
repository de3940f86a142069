from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.distributed.config import ClusterConfig
from esper.distributed.supervise import Health, Remedy, after_fault, can_do_without, due, not_aged, overdue, restart_delay

CLUSTER = ClusterConfig(max_restarts=2, restart_window_sec=100.0, restart_delay_sec=1.0, restart_delay_max_sec=3.0, regrow_sec=50.0)


def remedies(times: list[float], *, is_needed: bool = False) -> list[Remedy]:
    health, found = Health(), []
    for now in times:
        decision = after_fault(health, now, CLUSTER, is_needed=is_needed)
        health = decision.health
        found.append(decision.remedy)
    return found


def test_a_part_is_restarted_within_its_budget_and_then_dropped() -> None:
    assert remedies([0.0, 1.0, 2.0]) == [Remedy.RESTART, Remedy.RESTART, Remedy.DROP]


def test_a_part_that_is_needed_is_given_up_instead() -> None:
    assert remedies([0.0, 1.0, 2.0], is_needed=True) == [Remedy.RESTART, Remedy.RESTART, Remedy.GIVE_UP]


def test_old_faults_do_not_count() -> None:
    assert remedies([0.0, 60.0, 101.0, 161.0]) == [Remedy.RESTART] * 4


def test_while_a_part_is_waited_for_its_faults_do_not_age() -> None:
    health, found = Health(), []
    for now in (0.0, 150.0, 300.0):
        decision = after_fault(not_aged(health, 150.0), now, CLUSTER, is_needed=True)
        health = decision.health
        found.append(decision.remedy)
    assert found == [Remedy.RESTART, Remedy.RESTART, Remedy.GIVE_UP]


def test_a_budget_of_zero_restarts_nothing() -> None:
    cluster = replace(CLUSTER, max_restarts=0)
    assert after_fault(Health(), 0.0, cluster, is_needed=False).remedy is Remedy.DROP


def test_a_dropped_part_is_tried_again_and_dropped_again_if_it_fails_at_once() -> None:
    health = Health()
    for now in (0.0, 1.0, 2.0):
        health = after_fault(health, now, CLUSTER, is_needed=False).health
    assert health.is_dropped
    assert health.due_at == pytest.approx(52.0)
    again = after_fault(health, 53.0, CLUSTER, is_needed=False)
    assert again.remedy is Remedy.DROP
    assert again.health.num_faults == 4


def test_pauses_double_up_to_the_longest() -> None:
    assert [restart_delay(n, CLUSTER) for n in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 3.0]
    assert restart_delay(1, replace(CLUSTER, restart_delay_sec=0.0)) == 0.0


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=20).map(sorted))
@settings(deadline=None, max_examples=50)
def test_restarts_never_exceed_the_budget_in_any_window(times: list[float]) -> None:
    restarts = [now for now, remedy in zip(times, remedies(times), strict=True) if remedy is Remedy.RESTART]
    for start in restarts:
        assert sum(start <= now < start + CLUSTER.restart_window_sec for now in restarts) <= CLUSTER.max_restarts


def test_a_part_can_be_done_without_while_another_works_or_is_coming_back() -> None:
    coming_back, dropped = Health(is_working=False, due_at=3.0), Health(is_working=False, is_dropped=True, due_at=9.0)
    assert can_do_without(0, [Health(), Health()])
    assert can_do_without(0, [Health(), coming_back])
    assert not can_do_without(0, [Health(), dropped])
    assert not can_do_without(0, [Health()])


def test_what_is_due_and_who_is_overdue() -> None:
    healths = {"a": Health(), "b": Health(is_working=False, due_at=5.0), "c": Health(is_working=False, due_at=7.0)}
    assert due(healths, 5.0) == ["b"]
    assert overdue({"x": 0.0, "y": 6.0}, 10.0, 5.0) == ["x"]
