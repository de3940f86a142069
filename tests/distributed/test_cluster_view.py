from __future__ import annotations

from typing import TYPE_CHECKING

from esper.cli.cluster import describe
from esper.cli.main import main
from esper.distributed.cluster_check import this_machine
from esper.distributed.cluster_view import look_at_cluster, name_choice
from tests.distributed.runs import tiny_config

if TYPE_CHECKING:
    import pytest


def test_without_a_named_cluster_this_machine_is_looked_at_whatever_ray_is_told() -> None:
    view = look_at_cluster(None, {"RAY_ADDRESS": "127.0.0.1:1"})
    assert view.nodes == (this_machine(),)
    assert view.free == this_machine().resources
    assert view.address == "a run starts its own here, unless cluster.address names one (RAY_ADDRESS=127.0.0.1:1 is not looked at)"


def test_a_job_is_told_to_join_its_own_cluster() -> None:
    assert name_choice({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "head:6379"}) == "a run joins that of this job"


def test_a_run_that_finds_room_and_one_that_does_not_are_told_apart() -> None:
    view = look_at_cluster(None, {})
    assert all(finding.is_good for finding in describe(view, tiny_config("cluster.env_cpus=0.1", "cluster.env_labels={zone: a}")))
    (missing,) = [finding.value for finding in describe(view, tiny_config("cluster.env_cpus=500")) if not finding.is_good]
    assert "each asks for 500 CPU (cluster.env_cpus)" in missing


def test_the_doctor_says_what_a_run_would_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["doctor", "--cluster", "cluster.env_cpus=0.1"]) == 0
    assert "unless cluster.address names one (RAY_ADDRESS=127.0.0.1:1 is not looked at)" in capsys.readouterr().out
