"""Charts of the HTML report: what their axes and legends say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.karn.report.fitness_charts import machine_figure, reward_figure
from esper.karn.report.growth_charts import MAX_ENVS, fates_figure, timeline_figure
from esper.karn.report.step_charts import decision_figure, host_figure
from esper.karn.store import Store
from esper.leyline.telemetry.infra import InfrastructureSnapshotPayload
from esper.leyline.telemetry.kasmina import SeedSnapshot
from esper.leyline.telemetry.tolaria import TolariaEpochPayload
from tests.fakes.telemetry import event, one_round, record_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from esper.leyline.telemetry import TelemetryEvent


def epochs(env_id: int, stages: Sequence[str]) -> list[TelemetryEvent]:
    told = []
    for number, stage in enumerate(stages, start=1):
        seed = SeedSnapshot(f"r0c0@{env_id}", "conv", stage, alpha=0.5, epochs_in_stage=1)
        norms = {"host.classifier": 0.5, "slots.0.r0c0@1.mix": 0.1}
        payload = TolariaEpochPayload(
            env_id, 50.0, 1.0, number, seeds={"r0c0": seed}, train_loss=1.5, grad_norm_per_layer=norms, forward_time_ms=2.0, episode_idx=0
        )
        told.append(replace(event("TOLARIA_EPOCH_COMPLETED", payload), group_id="train/learned/0"))
    return told


def legend_of(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize(("num_envs", "is_told"), [(MAX_ENVS, False), (2 * MAX_ENVS, True)])
def test_the_timeline_says_how_many_environments_it_leaves_out(num_envs: int, is_told: bool, tmp_path: Path) -> None:
    record_run(tmp_path, [[one for env_id in range(num_envs) for one in epochs(env_id, ["TRAINING", "BLENDING"])]])
    with Store.open(tmp_path) as store:
        (axes,) = timeline_figure(store).axes
    assert (f"{MAX_ENVS} of its {num_envs} environments" in axes.get_title(loc="left")) is is_told
    assert len(axes.get_yticks()) == MAX_ENVS


@pytest.mark.parametrize(("last", "place"), [("EMBARGOED", 2.0), ("PRUNED", 2.0), ("FOSSILIZED", None)])
def test_a_removed_seed_is_marked_where_it_was_removed(last: str, place: float | None, tmp_path: Path) -> None:
    record_run(tmp_path, [epochs(0, ["TRAINING", "HOLDING", last, last])])
    with Store.open(tmp_path) as store:
        figure = timeline_figure(store)
    marked = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "X"]
    assert marked == ([] if place is None else [place])
    assert (legend_of(figure).count("pruned") > 0) is (place is not None)


def test_one_round_has_one_tick(tmp_path: Path) -> None:
    told = [replace(one, group_id="train/learned/0") for one in one_round(0, n_envs=2, rng=np.random.default_rng(0))]
    record_run(tmp_path, [told])
    with Store.open(tmp_path) as store:
        for figure in (fates_figure(store), reward_figure(store)):
            low, high = figure.axes[0].get_xlim()
            assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1.0]


def test_the_highest_load_lies_below_the_edge(tmp_path: Path) -> None:
    def reading(value: float) -> InfrastructureSnapshotPayload:
        no_cuda = (None,) * 6
        return InfrastructureSnapshotPayload(*no_cuda, source="env-0", cpu_utilization_pct=value, host_memory_used_gb=value)

    record_run(tmp_path, [[event("INFRASTRUCTURE_SNAPSHOT", reading(value), at) for at, value in ((0.0, 99.0), (60.0, 100.0))]])
    with Store.open(tmp_path) as store:
        _, load, memory, _ = machine_figure(store).axes
    for axes in (load, memory):
        low, high = axes.get_ylim()
        assert (low, high > 103.0) == (0.0, True)


def test_hosts_and_decisions_are_drawn_where_they_were_recorded(tmp_path: Path, run_dir: Path) -> None:
    record_run(tmp_path, [epochs(0, ["TRAINING", "BLENDING"])])
    with Store.open(tmp_path) as store:
        losses, times, gradients, precision, *_ = host_figure(store).axes
        (operations, _) = decision_figure(store).axes
    assert {line.get_label() for line in losses.lines} == {"train", "val"}
    assert times.patches
    assert [label.get_text() for label in gradients.get_yticklabels()] == ["host.classifier", "seed in slots.0"]
    assert [text.get_text() for text in precision.texts] == ["not measured in this run"]
    assert [text.get_text() for text in operations.texts] == ["no decision was recorded"]
