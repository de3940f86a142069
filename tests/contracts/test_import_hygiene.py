"""What an import does not drag in, seen from a fresh interpreter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

FORBIDDEN = {
    ("esper", "esper.leyline", "esper.leyline.telemetry"): "torch ray duckdb wandb torch_geometric textual pandas matplotlib",
    ("esper.simic", "esper.urza", "esper.kasmina", "esper.tolaria"): "ray duckdb textual wandb torch_geometric",
    ("esper.tamiyo",): "ray duckdb textual wandb torch_geometric torch._dynamo",
    ("esper.nissa",): "ray wandb torch_geometric textual",
    ("esper.karn",): "ray wandb torch_geometric textual matplotlib",
    ("esper.karn.report",): "ray wandb torch torch_geometric matplotlib",
    ("esper.distributed.build", "esper.distributed.runtime"): "ray duckdb wandb torch_geometric torch._dynamo matplotlib sklearn pandas",
    ("esper.distributed.sink_process",): "torch wandb torch_geometric textual matplotlib sklearn pandas",
    ("esper.cli.run",): "ray wandb torch_geometric torch._dynamo matplotlib sklearn pandas",
    ("esper.cli.commands",): "torch ray duckdb wandb matplotlib sklearn pandas",
    ("esper.cli.query", "esper.cli.report", "esper.cli.status", "esper.cli.wandb"): "torch ray wandb matplotlib sklearn pandas",
    ("esper.cli",): "ray duckdb wandb torch_geometric textual",
}
"""Packages, imported together, and what none of them may load."""


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("packages", FORBIDDEN, ids=" ".join)
def test_an_import_leaves_heavy_packages_alone(packages: tuple[str, ...]) -> None:
    assert all(importlib.util.find_spec(package) is not None for package in packages)
    assert modules_after(f"import {', '.join(packages)}") & set(FORBIDDEN[packages].split()) == set()


@pytest.mark.parametrize("name", ["SeedTelemetry", "TelemetryEvent", "FastTrainingSignals", "SeedStage", "AdaptationCommand"])
def test_contracts_are_found_at_the_door(name: str) -> None:
    import esper.leyline

    assert name in esper.leyline.__all__
    assert hasattr(esper.leyline, name)
