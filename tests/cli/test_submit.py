"""What the command line hands to a job server."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

from esper.cli import submit
from esper.cli.main import main
from esper.distributed.config import read_run_config

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.submit import JobRequest


class Server:
    """A job server that takes everything."""

    address = "http://head:8265"
    is_same_machine = False

    def __init__(self) -> None:
        self.requests: list[JobRequest] = []

    def connect(self, address: str | None) -> Server:
        return self

    def jobs(self) -> list[Any]:
        return []

    def submit(self, request: JobRequest) -> str:
        self.requests.append(request)
        return request.submission_id


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(submit, "JobServer", server)
    return server


def test_submit_takes_what_train_takes(server: Server, tmp_path: Path) -> None:
    short = ["--seed", "7", "--slots", "r0c0,r0c2", "--telemetry", "light", "--legacy-events"]
    words = ["submit", "--run-dir", "/shared/first", "--project", str(tmp_path), *short, "task.preset=smoke", "rollout.rounds=2"]
    assert main(words) == 0
    command = shlex.split(server.requests[0].entrypoint)
    config = read_run_config(None, [word for word in command if "=" in word])
    assert (config.seed, config.growth.slots, config.rollout.rounds) == (7, ("r0c0", "r0c2"), 2)
    assert (config.telemetry.level, config.telemetry.legacy_events) == ("light", True)


def test_a_wrong_short_setting_is_refused_before_anything_is_sent(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--run-dir", "/shared/first", "--project", str(tmp_path), "--seed", "-1"]) == 2
    assert "seed=-1 should be at least 0" in capsys.readouterr().err
    assert not server.requests


def test_a_look_at_a_job_takes_no_settings(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "stop", "esper-first-1", "--seed", "3"]) == 2
    assert "takes the submission id of a job and no settings" in capsys.readouterr().err
