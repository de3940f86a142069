"""Real Ray on this machine. Everything else about a run is tested in one process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import ray

from esper.cli.main import main
from esper.distributed.actors import RayExecutor, close_session, open_session, start_part, stop_part
from esper.distributed.config import ClusterConfig
from esper.distributed.executor import ClusterError, RunFailedError
from esper.distributed.session import train_run
from esper.distributed.telemetry_queue import Drain, QueueTransport, make_queue
from esper.leyline.load import ConfigError
from tests.distributed.runs import TINY, tiny_config, trace

if TYPE_CHECKING:
    from pathlib import Path

SMALL_SHARES = ("cluster.env_cpus=0.25", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25")


class Part:
    """A part with every way to fail."""

    def double(self, number: int) -> int:
        return 2 * number

    def refuse(self) -> None:
        raise ConfigError("seed='x' should be a whole number")

    def sleep(self) -> None:
        time.sleep(60)

    def die(self) -> None:
        os._exit(1)

    def acknowledged(self, source: str, incarnation: int) -> int:
        return 7

    def close(self) -> None:
        pass


def test_resources_are_compared_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match=r"asks for 1000\.5 CPU in all .*each asks for 500 CPU \(cluster\.env_cpus\)"):
        train_run(tiny_config("cluster.env_cpus=500", "telemetry.console=rounds"), tmp_path / "runs" / "first", local=False)
    assert not ray.is_initialized()
    assert not (tmp_path / "runs").exists()
    assert "begins round" not in capsys.readouterr().err


def test_a_cluster_that_cannot_be_reached_leaves_no_folder_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match=r"cluster\.address='127\.0\.0\.1:1'"):
        train_run(tiny_config("cluster.address=127.0.0.1:1", "telemetry.console=rounds"), tmp_path / "run", local=False)
    assert not (tmp_path / "run").exists()
    assert "begins round" not in capsys.readouterr().err


@pytest.mark.ray
def test_ray_plays_the_same_run_as_one_process(finished: Path, tmp_path: Path) -> None:
    assert not train_run(tiny_config(*SMALL_SHARES), tmp_path / "run", local=False)
    assert not ray.is_initialized()
    assert trace(tmp_path / "run") == trace(finished)


@pytest.mark.ray
def test_too_small_a_cluster_is_one_clear_line_and_leaves_no_folder_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    assert main(["train", "--run-dir", str(root), *TINY, "cluster.env_cpus=500"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert "1000.5 CPU" in errors[0]
    assert not ray.is_initialized()
    assert not root.exists()


@pytest.mark.ray
def test_calls_results_and_faults_cross_to_actors_and_back() -> None:
    open_session(ClusterConfig(), namespace="test-actors")
    try:
        executor = RayExecutor(timeout_sec=300.0)
        part = start_part("part", Part, (), cpus=0.1)
        doubled = executor.call(part, "double", executor.call(part, "double", 3))
        ready, pending = executor.wait([doubled])
        assert (ready, pending) == ([doubled], [])
        assert executor.get(doubled) == 12
        with pytest.raises(ConfigError) as caught:
            executor.get(executor.call(part, "refuse"))
        assert type(caught.value) is ConfigError

        queue = make_queue(2)
        assert queue.qsize() == 0
        transport = QueueTransport(queue, part)
        assert transport.try_put([b"1", b"2"])
        assert not transport.try_put([b"3"])
        drain = Drain(queue)
        assert drain() == [b"1", b"2"]
        assert drain() == []
        deadline = time.monotonic() + 300.0
        while transport.acknowledged("env-0", 0) != 7 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert transport.acknowledged("env-0", 0) == 7

        slow = executor.call(part, "sleep")
        with pytest.raises(RunFailedError, match="call_timeout_sec"):
            RayExecutor(timeout_sec=0.2).wait([slow])
        with pytest.raises(RunFailedError, match="call_timeout_sec"):
            RayExecutor(timeout_sec=0.2).get(slow)
        ray.kill(part)
        mortal = start_part("mortal", Part, (), cpus=0.1)
        with pytest.raises(RunFailedError, match="died"):
            executor.get(executor.call(mortal, "die"))
        stop_part(mortal, timeout_sec=5.0)
    finally:
        close_session()
