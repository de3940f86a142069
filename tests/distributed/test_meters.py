from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.exceptions import RayActorError

from esper.distributed import meters
from esper.distributed.actors import RayPart, close_session, open_session, start_part
from esper.distributed.config import ClusterConfig
from esper.distributed.meters import GAUGES, Meters, utilisation
from esper.distributed.telemetry_queue import make_queue

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeGauge:
    """Keeps what it is set to where a test can read it."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        assert tag_keys == ("run",)
        self._name, self._run = name, ""

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self._run = tags["run"]

    def set(self, value: float) -> None:
        self.values[self._name, self._run] = value


class Worker:
    """A part that works as long as it is told to."""

    def work(self, seconds: float) -> None:
        time.sleep(seconds)


def launch(name: str, incarnation: Callable[[], int]) -> Any:
    return start_part(f"{name}-{incarnation()}", Worker, (), cpus=0.25)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], float]:
    """What the gauges of this test show."""
    values: dict[tuple[str, str], float] = {}
    monkeypatch.setattr(meters, "Gauge", type("Gauge", (FakeGauge,), {"values": values}))
    return values


def _wait_until_dead(worker: RayPart) -> None:
    """A call may overtake the kill."""
    with pytest.raises(RayActorError):
        for _ in range(1000):
            ray.get(worker.handle.busy_sec.remote(), timeout=60.0)
            time.sleep(0.01)


@pytest.mark.ray
def test_every_gauge_is_set_and_keeps_its_value_while_nobody_answers(shown: dict[tuple[str, str], float]) -> None:
    open_session(ClusterConfig(), namespace="test-meters")
    try:
        queue = make_queue(8, "test-meters")
        worker = RayPart("env-0", launch, partial(int, 1))
        clock = SimpleNamespace(now=0.0)
        gauges = Meters("first", queue, [worker], clock=lambda: clock.now)
        gauges.round_finished(rounds=1, env_steps_per_sec=4.0, num_faults=0)
        ray.get(worker.handle.call.remote("work", 0.5), timeout=60.0)
        queue.put(b"a batch")
        clock.now = 1.0
        gauges.round_finished(rounds=2, env_steps_per_sec=5.0, num_faults=1)
        assert {name for name, _ in shown} == set(GAUGES)
        assert {run for _, run in shown} == {"first"}
        told = {name: value for (name, _), value in shown.items()}
        assert (told["esper_rounds"], told["esper_env_steps_per_sec"], told["esper_parts_lost"]) == (2, 5.0, 1)
        assert told["esper_telemetry_queue_depth"] == 1
        assert 0.5 <= told["esper_env_utilisation"] <= 1.0
        worker.kill()
        ray.kill(queue.actor)
        _wait_until_dead(worker)
        clock.now = 2.0
        gauges.round_finished(rounds=3, env_steps_per_sec=6.0, num_faults=2)
        later = {name: value for (name, _), value in shown.items()}
        assert later == told | {"esper_rounds": 3, "esper_env_steps_per_sec": 6.0, "esper_parts_lost": 2}
    finally:
        close_session()


def test_utilisation_is_the_mean_share_of_the_time_that_was_worked() -> None:
    assert utilisation({"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 2.0}, 2.0) == pytest.approx(0.75)


def test_a_worker_that_was_replaced_counts_from_its_beginning() -> None:
    assert utilisation({"a": 50.0}, {"c": 1.0}, 2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("after", "elapsed"), [({}, 1.0), ({"a": 1.0}, 0.0)])
def test_what_nobody_tells_is_unmeasured(after: dict[str, float], elapsed: float) -> None:
    assert utilisation({}, after, elapsed) is None


def test_rounding_never_shows_more_than_all() -> None:
    assert utilisation({}, {"a": 1.001}, 1.0) == 1.0
