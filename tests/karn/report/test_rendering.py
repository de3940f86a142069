from __future__ import annotations

import csv
import io
import json
from datetime import datetime

from esper.karn.report.rendering import render
from esper.karn.sandbox import Answer

ROWS = Answer(
    ("name", "value", "at", "parts"),
    (
        ("a,b", 0.1, datetime(2026, 11, 21, 9, 0), {"x": [1, None]}),
        ('say "no"\nagain', float("nan"), None, None),
        ("", 1 / 3, None, None),
    ),
    is_cut=False,
)


def test_csv_is_read_back_exactly() -> None:
    header, *rows = csv.reader(io.StringIO(render(ROWS, "csv")))
    assert header == list(ROWS.columns)
    assert rows[0] == ["a,b", "0.1", "2026-11-21T09:00:00", '{"x": [1, null]}']
    assert rows[1] == ['say "no"\nagain', "nan", "", ""]
    assert float(rows[2][1]) == 1 / 3


def test_json_is_strict_and_complete() -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    rows = json.loads(render(ROWS, "json"), parse_constant=refuse)
    assert rows[0] == {"name": "a,b", "value": 0.1, "at": "2026-11-21T09:00:00", "parts": {"x": [1, None]}}
    assert rows[1]["value"] == "nan"


def test_the_table_has_one_line_a_row() -> None:
    lines = render(ROWS, "table").splitlines()
    assert len(lines) == 2 + len(ROWS.rows)
    assert lines[0].split() == list(ROWS.columns)
    assert "NULL" in lines[3]


def test_no_rows_are_no_lines() -> None:
    empty = Answer(("a", "b"), (), is_cut=False)
    assert render(empty, "json") == "[]"
    assert render(empty, "csv") == "a,b"
    assert len(render(empty, "table").splitlines()) == 2
