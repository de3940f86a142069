from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from esper.karn.report.plots import plot_run, running_mean
from esper.karn.report.table import PolicyRow
from esper.karn.store import Store

if TYPE_CHECKING:
    from pathlib import Path

BASELINES = [
    PolicyRow("random", 45.4, 41.0, 50.0, 50.9, 1.09, 1.5, 80),
    PolicyRow("best fixed", 76.8, None, None, 79.1, 0.45, 2.0, 80),
]


def test_the_picture_of_a_run_is_large_and_not_blank(run_dir: Path, tmp_path: Path) -> None:
    with Store.open(run_dir) as store:
        path = plot_run(store, BASELINES, tmp_path / "deep" / "run.png")
    picture = np.asarray(imread(path))
    assert picture.shape == (800, 1200, 4)
    is_inked = np.any(picture[..., :3] < 0.95, axis=-1)
    for quarter in (is_inked[:400, :600], is_inked[:400, 600:], is_inked[400:, :600], is_inked[400:, 600:]):
        assert quarter.mean() > 0.005


def test_baselines_change_the_picture(run_dir: Path, tmp_path: Path) -> None:
    with Store.open(run_dir) as store:
        plain = imread(plot_run(store, None, tmp_path / "plain.png"))
        compared = imread(plot_run(store, BASELINES, tmp_path / "compared.png"))
    assert (plain != compared).any()


def test_a_run_without_events_can_be_drawn(empty_run_dir: Path, tmp_path: Path) -> None:
    with Store.open(empty_run_dir) as store:
        assert plot_run(store, None, tmp_path / "empty.png").stat().st_size > 1000


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=30), window=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_running_mean_is_the_mean_of_what_came_before(values: list[float], window: int) -> None:
    means = running_mean(np.array(values), window)
    slow = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(means, slow, atol=1e-9)
