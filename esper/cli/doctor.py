"""`esper doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("esper-morph", "torch", "torch-geometric", "ray", "duckdb", "pyarrow", "numpy", "scikit-learn", "safetensors", "wandb")
OPTIONAL = frozenset({"wandb"})
MIN_SHARED_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    name: str
    value: str
    is_good: bool = True
    is_required: bool = True


def examine(data_dir: Path) -> list[Finding]:
    """Look at versions, devices, Ray and data sets; nothing is started or changed."""
    return [*_versions(), *_machine(), *_ray(), *_data(data_dir)]


def render(findings: list[Finding]) -> str:
    """One line per finding, `ok`, `--` (optional and absent) or `!!` in front."""
    lines = []
    for finding in findings:
        mark = "ok" if finding.is_good else ("!!" if finding.is_required else "--")
        lines.append(f"{mark}  {finding.area:<8} {finding.name:<22} {finding.value}")
    return "\n".join(lines)


def _versions() -> list[Finding]:
    findings = [Finding("version", "python", platform.python_version())]
    for package in PACKAGES:
        try:
            findings.append(Finding("version", package, version(package)))
        except PackageNotFoundError:
            findings.append(Finding("version", package, "not installed", is_good=False, is_required=package not in OPTIONAL))
    return findings


def _machine() -> list[Finding]:
    import torch

    from esper.tolaria.engine.base import EngineConfig

    findings = [Finding("device", "cpu cores", str(os.cpu_count()))]
    if torch.cuda.is_available():
        findings += [Finding("device", f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    else:
        findings.append(Finding("device", "cuda", "none found; hosts train on the CPU", is_good=False, is_required=False))
    findings.append(
        Finding("device", "tf32 on a GPU", f"hosts {'on' if EngineConfig().tf32 else 'off'} unless engine.tf32 says otherwise, policy on")
    )
    return findings


def _ray() -> list[Finding]:
    from esper.distributed.cluster_view import name_choice

    findings = [Finding("ray", "cluster", name_choice(os.environ))]
    shared = Path("/dev/shm")
    if shared.exists():
        free = shutil.disk_usage(shared).free
        is_enough = free >= MIN_SHARED_MEMORY_BYTES
        advice = "" if is_enough else "; Ray will fall back to disk, raise --shm-size"
        findings.append(Finding("ray", "shared memory", f"{free / 2**30:.1f} GiB free{advice}", is_enough, is_required=False))
    return findings


def _data(data_dir: Path) -> list[Finding]:
    from esper.leyline.load import ConfigError
    from esper.leyline.rng import SeedTree
    from esper.tolaria.config import TaskConfig
    from esper.tolaria.tasks.presets import presets
    from esper.tolaria.tasks.registry import make_episode

    findings = []
    for name in (preset.name for preset in presets()):
        config = TaskConfig(preset=name, data_dir=str(data_dir), num_train=8, num_val=8, num_test=8)
        try:
            make_episode(config, "train", SeedTree(0))
            findings.append(Finding("data", name, "found"))
        except (ConfigError, OSError) as error:
            findings.append(Finding("data", name, str(error).splitlines()[0], is_good=False, is_required=False))
    return findings
