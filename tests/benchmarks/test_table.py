from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.feature_table import PAGE
from benchmarks.measure import figure
from benchmarks.table import BEGIN, END, main, render_gains, render_goals, replace_marked, short
from esper.tamiyo.graph_spec import GRAPH_SPEC
from esper.tolaria.engine.choose import Measurement

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = {"cpu": "a CPU", "cpus": 2, "load_average": [0.5, 1.0, 1.0], "threads": 1, "measured_on": "2026-01-02"}


def result(**figures: Any) -> dict[str, Any]:
    return {"figures": figures, "machine": MACHINE, "load_average_after": [1.5, 1.0, 1.0]}


def measured(values: list[float]) -> dict[str, Any]:
    return figure("what", "ms", values=values, reference="bare loop", reference_values=[2.0] * len(values))


def test_goals_stand_in_order_each_named_once() -> None:
    table = render_goals({"b": result(P11=measured([8.0]), P2_mixed=measured([6.0])), "a": result(P2_bare=measured([4.0]))})
    rows = [line.split("|") for line in table.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["`P2_mixed`", "`P2_bare`", "`P11`"]
    assert [row[1].strip()[:4] for row in rows] == ["P2: ", "", "P11:"]
    assert [row[5].strip() for row in rows] == ["3.00", "2.00", "4.00"]
    assert rows[0][3].strip() == "6 ms"
    assert rows[0][4].strip() == "bare loop: 2"
    assert rows[0][6].strip() == "0.5–1.5 on 2"


def test_figures_without_a_goal_are_left_out() -> None:
    assert "other" not in render_goals({"a": result(other=measured([1.0]), Px=measured([1.0]), P1=measured([1.0]))})


def test_gains_have_a_row_a_host_and_a_column_a_number() -> None:
    rows = [
        Measurement("cnn", "small", 10, 10, 1, 1.0, 2.0, 3.0, 2.0),
        Measurement("cnn", "small", 10, 10, 4, 8.0, 2.0, 6.0, 2.0),
        Measurement("mlp", "flat", 10, 10, 4, 9.0, 3.0, 4.0, 1.0),
    ]
    lines = render_gains(rows, {"machine": MACHINE, "versions": {"torch": "9.9"}}).splitlines()
    assert "a CPU, 2 cores at load 0.5, torch 9.9, one thread, 2026-01-02" in lines[0]
    assert lines[2:] == ["| host | K = 1 | K = 4 |", "|---|---|---|", "| small | 0.5 / 1.5 | 4.0 / 3.0 |", "| flat |  | 3.0 / 4.0 |"]


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replace_marked(text, "new")
    assert once.startswith(f"before\n{BEGIN}\n\nnew\n") and once.endswith(f"{END}\nafter\n")
    assert replace_marked(once, "new") == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"])
def test_missing_or_repeated_markers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        replace_marked(text, "new")


def test_check_says_whether_the_readme_is_current(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    (results / "one.json").write_text(json.dumps(result(P3=measured([12.0]))))
    readme.write_text(f"{BEGIN}\n{END}\n")
    arguments = ["--readme", str(readme), "--results", str(results)]
    assert main([*arguments, "--check"]) == 1
    assert readme.read_text() == f"{BEGIN}\n{END}\n"
    assert main(arguments) == 0
    assert "`P3`" in readme.read_text()
    assert main([*arguments, "--check"]) == 0


def test_the_readme_holds_what_was_measured_last() -> None:
    assert main(["--check"]) == 0


def test_the_page_of_features_is_that_of_the_layout() -> None:
    rows = [line.rpartition(" | ")[0] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert rows == [line.removesuffix(" |") for line in GRAPH_SPEC.table().splitlines()]


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (5.0, "5"), (54.27, "54.3"), (1234.5, "1,234")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
