from __future__ import annotations

import io

from rich.console import Console

from esper.karn.report.table import PolicyRow, markdown_table, policy_table, rows_of

ROWS = [
    PolicyRow("random", 45.4, 41.0, 50.0, 50.9, 1.09, 1.5, 80),
    PolicyRow("learned | greedy", 79.7, 76.0, 83.0, 81.4, 0.33, 2.0, 80),
    PolicyRow("best fixed", 76.8, None, None, 79.1, 0.45, 2.0, 80),
    PolicyRow("plateau", 60.7, 59.0, 63.0, 68.0, 1.45, 2.0, 80),
]


def test_markdown_shows_every_number_and_marks_the_best_policy() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert lines[2] == "| random | 45.4 [41.0, 50.0] | 50.9 | 1.09 | 1.5 | 80 |"
    assert lines[3].startswith("| **learned \\| greedy** | **79.7 [76.0, 83.0]** |")
    assert "| 76.8 |" in lines[4]
    assert [line.count("**") > 0 for line in lines[2:]] == [False, True, False, False]


def test_the_terminal_table_fits_eighty_columns_without_losing_numbers() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(policy_table(ROWS, "held out"))
    text = stream.getvalue()
    for fragment in ("held out", "45.4 [41.0, 50.0]", "79.7 [76.0, 83.0]", "81.4", "1.09", "plateau"):
        assert fragment in text


def test_an_empty_comparison_is_an_empty_table() -> None:
    assert len(markdown_table([]).splitlines()) == 2
    assert policy_table([]).row_count == 0


def test_a_stored_comparison_becomes_one_row_a_policy() -> None:
    episodes = [
        {"final_accuracy": 80.0, "param_ratio": 1.5, "num_fossilized": 2},
        {"final_accuracy": 70.0, "param_ratio": 1.0, "num_fossilized": 1},
    ]
    summary = {"policy": "learned", "mean": {"value": 71.0, "low": None, "high": None}}
    found = {"summaries": [summary, {**summary, "policy": "wait"}], "outcomes": {"wait": episodes[1:], "learned": episodes}}
    assert rows_of(found) == [
        PolicyRow("learned", 71.0, None, None, 75.0, 0.25, 1.5, 2),
        PolicyRow("wait", 71.0, None, None, 70.0, 0.0, 1.0, 1),
    ]
