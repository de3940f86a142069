from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.bench_scale import record
from benchmarks.processes import cpu_sec, descendants, title, unshared_mb
from benchmarks.stub_hosts import Listener, StubHosts
from experiments.scale.predict import Line, fit
from tests.distributed.runs import tiny_config

QUIET = ("rollout.num_envs=2", "rollout.envs_per_actor=2", "telemetry.heartbeat_sec=0", "telemetry.infrastructure_rounds=0")


def test_a_stub_says_what_a_real_group_said_without_training() -> None:
    recording = record(tiny_config(*QUIET), steps=2)
    assert len(recording.batches) == len(recording.events) == 3
    assert all(len(events) >= 2 for events in recording.events[1:])
    listeners = {name: Listener() for name in ("env-0", "env-1")}
    makers: Any = listeners.__getitem__
    hosts = StubHosts(recording, 0.0, tuple(listeners), makers)
    first = hosts.watched_call(1, "start", 3, (None, None))[1]
    assert (first.key.group, first.key.env_ids, first.key.step) == (3, (6, 7), 0)
    step = hosts.watched_call(1, "step", None)[1]
    assert step.key.step == 1
    assert step.observation is recording.batches[1].observation
    assert listeners["env-1"].take() == (*recording.events[0], *recording.events[1])
    assert listeners["env-0"].take() == ()
    idle, worked = hosts.take_busy_sec()
    assert (idle, worked > 0.0) == (0.0, True)


def test_processes_are_found_and_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in descendants(os.getpid())
        assert title(os.getpid())
        assert cpu_sec(os.getpid()) > 0.0
        assert unshared_mb(os.getpid()) > 1.0
    finally:
        child.kill()
        child.wait()
    assert child.pid not in descendants(os.getpid())
    assert (title(child.pid), cpu_sec(child.pid), unshared_mb(child.pid)) == ("", 0.0, 0.0)


def test_the_model_recovers_the_lines_that_it_is_given() -> None:
    rows = [
        {
            "env_steps_per_sec": speed,
            "cpu_ms_per_env_step": {"driver": 0.5 + 7.0 / speed, "learner": 2.0, "queue": 0.1},
            "sink_cpu_ms_per_env_step_drained": 0.3,
        }
        for speed in (1.0, 8.0, 30.0, 250.0)
    ]
    lines = fit(rows)
    assert lines["driver"].step_ms == pytest.approx(0.5)
    assert lines["driver"].idle_ms == pytest.approx(7.0)
    assert lines["learner"].at(1e6) == pytest.approx(2.0)


def test_a_part_is_saturated_where_it_needs_all_of_one_process() -> None:
    line = Line(step_ms=2.0, idle_ms=10.0)
    most = line.most_envs(step_sec=2.0)
    assert most == pytest.approx(990.0)
    assert line.processes(most / 2.0) == 1
    assert line.processes(1.01 * most / 2.0) == 2
