"""Addresses and answers of a job server that is none; and whole jobs on a real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from esper.cli.main import main
from esper.distributed.executor import ClusterError
from esper.distributed.job_server import DEFAULT_ADDRESS, JobServer, ray_versions, require_version, resolve_address
from esper.leyline.load import ConfigError
from tests.distributed.job_cluster import job_cluster
from tests.distributed.runs import TINY, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB_SEC = 900.0


def test_an_address_is_the_one_given_or_the_environments_or_this_machines() -> None:
    assert resolve_address("http://head:8265/", {"RAY_ADDRESS": "http://other:1"}) == "http://head:8265"
    assert resolve_address("head:8265", {}) == "http://head:8265"
    assert resolve_address(None, {"RAY_API_SERVER_ADDRESS": "https://a:1", "RAY_ADDRESS": "http://b:2"}) == "https://a:1"
    assert resolve_address(None, {"RAY_ADDRESS": "10.0.0.1:6379"}) == DEFAULT_ADDRESS
    assert resolve_address(None, {}) == DEFAULT_ADDRESS


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "http://head:port", "file:///etc"])
def test_what_is_no_job_servers_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"should be the cluster's job server, e\.g\. http://head:8265"):
        resolve_address(address, {})


def test_versions_of_ray_that_esper_was_not_made_for_are_refused() -> None:
    lowest = next(str(one.version) for one in ray_versions() if one.operator == ">=")
    require_version(lowest, where="http://head:8265")
    for other in ("2.9.3", "3.0.0"):
        with pytest.raises(ClusterError, match=rf"http://head:8265 runs Ray {other}; Esper needs ray"):
            require_version(other, where="http://head:8265")


def test_an_address_that_nobody_answers_is_one_line_and_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["submit", "--address", address, "--run-dir", str(tmp_path / "run"), "--project", str(tmp_path), *TINY]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"no job server answers at {address}" in line
    assert not (tmp_path / "run").exists()


class _Stranger(BaseHTTPRequestHandler):
    """Some web server that has nothing to do with Ray."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def test_another_servers_answer_is_not_taken_for_ray() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Stranger)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ClusterError, match="answers, but not as a Ray job server"):
            JobServer.connect(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stop"], "takes one submission id"),
        (["begin"], "expected key=value settings, or one of: status, logs, stop"),
        (["stop", "a", "x=1"], "takes the submission id of a job and no settings"),
        ([], "needs --run-dir"),
        (["--run-dir", "runs/x"], "should be absolute"),
    ],
)
def test_words_that_make_no_sense_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *words]) == 2
    assert message in capsys.readouterr().err


@dataclass(frozen=True)
class Desk:
    """A job server, a project to submit from, and `esper submit` in a process of its own."""

    address: str
    project: Path
    environment: dict[str, str]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "esper.cli.main", "submit", "--address", self.address, "--project", str(self.project), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=JOB_SEC, check=False)

    def status(self, submission_id: str) -> str:
        return self.call("status", submission_id).stdout.split()[1]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    project = tmp_path_factory.mktemp("project")
    (project / "note.txt").write_text("uploaded\n")
    with job_cluster() as (address, folder):
        environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "WANDB_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        yield Desk(address, project, environment)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_submitted_followed_stopped_and_resumed(desk: Desk, finished: Path, tmp_path: Path) -> None:
    small = ("cluster.env_cpus=0.25", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25")
    whole = tmp_path / "whole"
    followed = desk.call("--run-dir", str(whole), "--follow", *TINY, *small, "telemetry.console=rounds")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "esper-whole-1" in followed.stdout
    assert f"telemetry   {whole}" in followed.stdout
    assert trace(whole) == trace(finished)

    cut = tmp_path / "cut"
    rounds = 40
    longer = ("--run-dir", str(cut), *TINY, "--local", f"rollout.rounds={rounds}")
    assert desk.call(*longer).returncode == 0
    again = desk.call(*longer)
    assert again.returncode == 2
    assert "job esper-cut-1 is" in again.stderr
    _await_checkpoint(cut, desk)
    stopped = desk.call("stop", "esper-cut-1")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "STOPPED" in stopped.stdout
    reached = _rounds(cut)
    assert 0 < reached < rounds

    other = desk.call(*longer, "ppo.learning_rate=0.5", "--wait")
    assert other.returncode == 1
    assert "holds a run with ppo.learning_rate" in desk.call("logs", "esper-cut-2").stdout

    resumed = desk.call(*longer, "--wait")
    assert resumed.returncode == 0, desk.call("logs", "esper-cut-3").stdout
    assert "esper-cut-3" in resumed.stdout
    assert _rounds(cut) == rounds
    state = json.loads((cut / "checkpoints" / f"round-{rounds:05d}" / "state.json").read_text())
    assert state["run"]["rounds"] == rounds
    assert desk.status("esper-cut-1") == "STOPPED"
    assert "knows no job 'esper-absent-1'; known: esper-whole-1" in desk.call("logs", "esper-absent-1").stderr
    shutil.rmtree(cut)


def _await_checkpoint(run: Path, desk: Desk) -> None:
    deadline = time.monotonic() + JOB_SEC
    while _rounds(run) == 0:
        if time.monotonic() > deadline:
            raise AssertionError(f"no checkpoint in {run}:\n{desk.call('logs', 'esper-cut-1').stdout}")
        time.sleep(0.2)


def _rounds(run: Path) -> int:
    return max((int(path.name.removeprefix("round-")) for path in (run / "checkpoints").glob("round-*")), default=0)
