from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from esper.karn.report.importance import ImportanceReport
from esper.karn.report.sweep_page import SweepPage, write_page
from esper.karn.report.sweep_plots import Axis, plot_sweep, positions, table_of
from esper.karn.sweeps import RoundResult, SweepTrialTable, TrialRecord

if TYPE_CHECKING:
    from pathlib import Path

AXES = (Axis("rate", 1e-4, 1e-2, is_log=True), Axis("mode", options=("a", "b")), Axis("extra", 0.0, 2.0))


def trial(number: int, parameters: dict[str, object], *utilities: float) -> SweepTrialTable:
    results = tuple(RoundResult(r, 8 * r, u, u, 1.0, 50.0, None, 0.5, 9.0) for r, u in enumerate(utilities, 1))
    return SweepTrialTable(TrialRecord(f"t{number}", number, "completed"), parameters, results)


TRIALS = [trial(0, {"rate": 1e-3, "mode": "a"}, 1.0, 2.0), trial(1, {"rate": 1e-2, "mode": "b", "extra": 1.0}, 3.0, 4.0)]


def test_positions_follow_the_axes_and_mark_what_does_not_apply() -> None:
    np.testing.assert_allclose(positions(AXES, TRIALS), [[0.5, 0.0, -1.0], [1.0, 1.0, 0.5]])
    assert positions(AXES, []).shape == (0, 3)


def test_ticks_go_from_end_to_end() -> None:
    ticks = AXES[0].ticks()
    assert [label for _, label in ticks] == ["0.0001", "0.000316", "0.001", "0.00316", "0.01"]
    assert [position for position, _ in ticks] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert AXES[1].ticks() == [(0.0, "a"), (1.0, "b")]


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[:1]], ids=["two", "one"])
def test_the_picture_is_drawn(trials: list[SweepTrialTable], tmp_path: Path) -> None:
    importance = ImportanceReport(reason="too few")
    path = plot_sweep(trials, AXES, tmp_path / "p.png", metric="utility", best_id="t1", importance=importance)
    with Image.open(path) as picture:
        assert picture.size == (1300, 900)
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_the_table_shows_what_applies() -> None:
    rows = table_of([*TRIALS, trial(2, {})], ("rate", "extra"), "utility")
    assert rows[0] == {
        "trial": "0",
        "status": "completed",
        "rounds": "2",
        "env steps": "16",
        "utility": "2.00",
        "rate": "0.001",
        "extra": "—",
    }
    assert rows[2]["utility"] == "—"


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"picture")
    page = SweepPage(
        title="Sweep <a>",
        facts={"search": "random"},
        picture=tmp_path / "p.png",
        picture_text="two trials",
        notes=["1 < 2"],
        rows=[{"trial": "0", "note": "<b>"}],
        best_settings="ppo:\n  epochs: 3\n",
        best_command="esper train --config best.yaml",
    )
    text = write_page(page, tmp_path / "page.html").read_text()
    assert "<title>Sweep &lt;a&gt;</title>" in text
    assert "1 &lt; 2" in text
    assert "<td>&lt;b&gt;</td>" in text
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in text
    assert "Confirmation" not in text
    assert "http" not in text
