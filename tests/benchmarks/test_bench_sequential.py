from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import bench_precision, bench_sequential
from benchmarks.bench_precision import CONTRASTS, MARGIN_POINTS, paired
from esper.leyline.rng import SeedTree
from esper.tolaria.engine.layouts import BF16_INSTRUCTIONS, LayoutMeasurement, cpu_instructions

if TYPE_CHECKING:
    from pathlib import Path


def test_every_layout_is_measured_beside_contiguous_fp32(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    arguments = ["--repeats", "1", "--steps", "1", "--hosts", "atten 8×8", "--batch-sizes", "32", "--no-compile", "--json", str(path)]
    result = bench_sequential.main(arguments)
    assert json.loads(path.read_text()) == result
    assert result["machine"]["threads"] == 1
    rows = [LayoutMeasurement(**found["measurement"]) for found in result["figures"].values()]
    layouts = {(row.memory_format, row.precision) for row in rows if not row.has_seeds}
    assert layouts == set(bench_sequential.LAYOUTS)
    assert {row.has_seeds for row in rows} == {False, True}
    assert all(row.instructions == cpu_instructions() and row.speedup > 0 and row.pays_after is None for row in rows)
    assert all(math.isfinite(found["speedup"]) for found in result["figures"].values())


def test_the_goal_is_only_judged_where_the_cpu_can_reach_it() -> None:
    assert all("cannot be measured here" not in bench_sequential.goal_of(name) for name in BF16_INSTRUCTIONS)
    assert "avx2 has no bf16 instructions" in bench_sequential.goal_of("avx2")


def test_compiling_pays_after_what_it_costs_over_what_it_saves() -> None:
    row = LayoutMeasurement("h", 1, 1, False, "avx2", "contiguous", "fp32", 10.0, 8.0, 6.0, 5.0)
    assert row.pays_after == 2500
    assert row.speedup == 1.25


def test_an_interval_finds_a_difference_that_is_there_and_none_that_is_not() -> None:
    noise = SeedTree(3).numpy().standard_normal(40)
    none, gain, wide = (paired(list(values)) for values in (noise - noise.mean(), noise + 2.0, 10.0 * (noise - noise.mean())))
    assert none.is_equal
    assert not gain.is_equal and gain.low > 0.0
    assert not wide.is_equal and wide.low < -MARGIN_POINTS and wide.high > MARGIN_POINTS
    with pytest.raises(ValueError, match="1 pairs"):
        paired([0.5])


def test_accuracies_are_compared_pair_by_pair(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = bench_precision.main(["--seeds", "2", "--epochs", "1", "--num-train", "64", "--num-test", "32", "--json", str(path)])
    assert set(result["figures"]) == {f"P4_accuracy {name}" for name in CONTRASTS}
    for found in result["figures"].values():
        low, high = found["interval_95_points"]
        assert low <= found["difference_points"] <= high
        assert found["repeats"] == 2


def test_equality_is_only_told_of_the_layout_and_the_cpu_that_were_tried() -> None:
    row = LayoutMeasurement("h", 1, 1, False, "amx", "channels_last", "bf16", 10.0, 8.0, None, None)
    results = {"figures": {"P4_accuracy channels_last bf16": {"instructions": "amx", "is_statistically_equal": True}}}
    assert bench_sequential.accuracy_is_equal(row, results) is True
    assert bench_sequential.accuracy_is_equal(replace(row, instructions="avx2"), results) is None
    assert bench_sequential.accuracy_is_equal(replace(row, memory_format="contiguous"), results) is None


@pytest.mark.slow
def test_channels_last_costs_no_accuracy() -> None:
    result = bench_precision.main(["--seeds", "40", "--layouts", "channels_last fp32"])
    for found in result["figures"].values():
        assert found["is_statistically_equal"], (found["difference_points"], found["interval_95_points"])
