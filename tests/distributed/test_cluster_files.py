"""Do the manifests say what Esper means: the tested Ray, a command that is understood, room for the run, nothing left to cost?"""

from __future__ import annotations

import fnmatch
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from esper.cli.main import make_parser
from esper.distributed.cluster_check import Node, demands, shortages
from esper.distributed.config import read_run_config
from esper.distributed.job_server import ray_versions

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "cluster"
JOBS = ("rayjob-cpu.yaml", "rayjob-gpu.yaml")


def pinned() -> str:
    """The version of Ray that the suite runs with."""
    (line,) = re.findall(r"^ray==(\S+)$", (ROOT / "configs" / "constraints.txt").read_text(), re.MULTILINE)
    return str(line)


def read(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return manifest


def pods(job: dict[str, Any]) -> list[tuple[dict[str, Any], int, dict[str, Any]]]:
    """Pod, number of replicas and start parameters of the head and of every group of workers."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [(cluster["headGroupSpec"], 1), *((group, group["replicas"]) for group in cluster["workerGroupSpecs"])]
    return [(group["template"]["spec"], count, group["rayStartParams"]) for group, count in groups]


def test_the_pin_is_a_version_that_the_package_allows() -> None:
    assert ray_versions().contains(pinned())


@pytest.mark.parametrize("name", JOBS)
def test_every_image_and_the_cluster_are_of_the_pinned_ray(name: str) -> None:
    job = read(name)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned()
    images = {container["image"] for pod, _, _ in pods(job) for container in pod["containers"]}
    assert images == {f"esper:ray-{pinned()}"}


def test_the_image_is_built_from_the_pinned_ray() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{pinned()}-py311" in text
    assert f"-t esper:ray-{pinned()}" in text
    assert read("ray-up.yaml")["docker"]["image"] == f"esper:ray-{pinned()}"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_a_command_that_esper_understands_and_that_fits_onto_its_cluster(name: str) -> None:
    job = read(name)
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "esper.cli.main"]
    options = make_parser().parse_args(words[3:])
    assert options.goes_on
    assert options.run_dir.is_absolute()
    config = read_run_config(ROOT / options.config.relative_to("/opt/esper"), options.settings)
    assert config.cluster.address is None
    nodes = []
    for pod, count, start in pods(job):
        (container,) = pod["containers"]
        limits = container["resources"]["limits"]
        cpus = float(start.get("num-cpus", limits["cpu"]))
        nodes += [Node("pod", {"CPU": cpus, "GPU": float(limits.get("nvidia.com/gpu", 0))}, {})] * count
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert any(options.run_dir.is_relative_to(path) and "persistentVolumeClaim" in volumes[mounts[path]] for path in mounts)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "secretKeyRef" in container["env"][0]["valueFrom"]
    assert shortages(demands(config), nodes) == []


@pytest.mark.parametrize("name", JOBS)
def test_a_finished_job_leaves_no_cluster_behind(name: str) -> None:
    spec = read(name)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > 0


def test_the_ssh_cluster_starts_a_head_without_parts_and_workers_that_find_it() -> None:
    cluster = read("ray-up.yaml")
    assert {"cluster_name", "provider", "auth"} <= set(cluster)
    assert cluster["provider"]["type"] == "local"
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    (head,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    (worker,) = [command for command in cluster["worker_start_ray_commands"] if "ray start" in command]
    assert "--head" in head
    assert "--num-cpus=0" in head
    assert "--address=$RAY_HEAD_IP" in worker


def test_ray_accepts_the_ssh_cluster_and_looks_for_its_image_before_it_pulls() -> None:
    rays_own = pytest.importorskip("ray.autoscaler._private.util")
    filled = rays_own.prepare_config(read("ray-up.yaml"))
    rays_own.validate_config(filled)
    assert filled["docker"]["pull_before_run"] is False


def is_left_out(path: str) -> bool:
    """Whether Docker leaves a path out: a pattern covers all below what it matches, and `**/` stands for any depth."""
    parts = path.split("/")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for pattern in (line for line in lines if line and not line.startswith("#")):
        candidates = parts if pattern.startswith("**/") else parts[: 1 + pattern.count("/")]
        if any(fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in candidates):
            return True
    return False


def test_the_image_has_the_package_and_neither_history_nor_caches_nor_runs() -> None:
    copied = [path.relative_to(ROOT).as_posix() for folder in ("esper", "configs") for path in (ROOT / folder).rglob("*.*")]
    kept = ["pyproject.toml", "README.md", *(path for path in copied if "__pycache__" not in path and not path.endswith(".tmp"))]
    assert [path for path in kept if is_left_out(path)] == []
    for line in (ROOT / ".gitignore").read_text().split():
        assert is_left_out(line.rstrip("/").replace("*", "any")), line
    for path in (".git/config", ".venv/bin/python", "sweeps/smoke/tune/tuner.pkl", "esper/cli/__pycache__/main.pyc", "runs/a/config.yaml"):
        assert is_left_out(path), path
