from __future__ import annotations

import io

from rich.console import Console

from esper.karn.report.table import PolicyRow, markdown_table, policy_table

ROWS = [
    PolicyRow("random", 45.4, 41.0, 50.0, 50.9, 1.09, 1.5, 80),
    PolicyRow("learned | greedy", 79.7, 76.0, 83.0, 81.4, 0.33, 2.0, 80),
    PolicyRow("best fixed", 76.8, None, None, 79.1, 0.45, 2.0, 80),
    PolicyRow("oracle", 80.7, 79.0, 83.0, 88.0, 1.45, 2.0, 80, is_reference=True),
]


def test_markdown_shows_every_number_and_marks_the_best_policy_that_is_no_oracle() -> None:
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
    for fragment in ("held out", "45.4 [41.0, 50.0]", "79.7 [76.0, 83.0]", "81.4", "1.09", "oracle"):
        assert fragment in text


def test_an_empty_comparison_is_an_empty_table() -> None:
    assert len(markdown_table([]).splitlines()) == 2
    assert policy_table([]).row_count == 0
