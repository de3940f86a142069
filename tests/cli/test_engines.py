from __future__ import annotations

from typing import TYPE_CHECKING

from esper.cli.engines import WIDTH, render_choice, render_table
from esper.cli.main import main
from esper.tolaria.engine.choose import RULE, Choice, Measurement
from esper.tolaria.tasks.presets import presets

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ROWS = (
    Measurement("cnn", "small", 7568, 8192, 1, 10.0, 20.0, 10.0, 8.0),
    Measurement("cnn", "small", 7568, 8192, 16, 400.0, 100.0, 300.0, 100.0),
    Measurement("mlp", "flat", 1440, 8192, 16, 90.0, 30.0, 30.0, 20.0),
)


def test_engines_are_explained_within_the_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--engines", "--data-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert RULE in " ".join(shown.split())
    for preset in presets():
        assert preset.name == "custom" or any(line.startswith(preset.name) for line in lines), preset.name
    assert any(line.startswith("cifar10 ") and "not here" in line for line in lines)
    smoke = [line for line in lines if line.startswith("smoke ")]
    assert len(smoke) == 4
    assert all(" 8  " in line and ("at once" in line or "one by one" in line) for line in smoke)


def test_the_table_has_a_row_a_host_with_gains_bare_and_grown() -> None:
    head, small, flat, *_ = render_table(ROWS)
    assert head.split() == ["host", "MACs", "values", "K=1", "K=16"]
    assert small.split() == ["small", "7,568", "8,192", "0.50", "1.25", "4.00", "3.00"]
    assert flat.split() == ["flat", "1,440", "8,192", "-", "3.00", "1.50"]


def test_a_choice_names_what_it_rests_on() -> None:
    assert render_choice(Choice(True, 12, ROWS[1])) == "12 at once: 4.00 3.00 (16 × small)"
    assert render_choice(Choice(False, 1, ROWS[0])) == "one by one: 0.50 1.25 (1 × small)"
