"""Answers of queries as text: a table for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from esper.karn.sandbox import Answer

MAX_CELL = 60
"""Characters of a cell in the table for people; the other forms cut nothing."""
Format = Literal["table", "csv", "json"]


def render(found: Answer, form: Format) -> str:
    """The rows as text that ends without a line break."""
    writers: dict[str, Callable[[Answer], str]] = {"table": _table, "csv": _csv, "json": _json}
    return writers[form](found)


def _table(found: Answer) -> str:
    if found.columns == ("explain_key", "explain_value"):
        return "\n".join(str(row[-1]) for row in found.rows)
    cells = [[_cut(_text(value)) for value in row] for row in found.rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(found.columns)]
    is_right = [any(_is_number(row[i]) for row in found.rows) for i in range(len(found.columns))]

    def line(texts: list[str]) -> str:
        return "  ".join(t.rjust(w) if right else t.ljust(w) for t, w, right in zip(texts, widths, is_right, strict=True)).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line(list(found.columns)), rule, *(line(row) for row in cells)])


def _csv(found: Answer) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(found.columns)
    writer.writerows([["" if value is None else _exact(value) for value in row] for row in found.rows])
    return out.getvalue().removesuffix("\n")


def _json(found: Answer) -> str:
    rows = [dict(zip(found.columns, map(plain, row), strict=True)) for row in found.rows]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)


def _exact(value: Any) -> str:
    return repr(value) if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(plain(value), ensure_ascii=False)
    reduced = plain(value)
    return reduced if isinstance(reduced, str) else str(reduced)


def plain(value: Any) -> Any:
    """Values of JSON; what it has no form for (NaN, infinities, times, blobs) is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.hex() if isinstance(value, bytes) else str(value)


def _cut(text: str) -> str:
    line = text.replace("\n", "⏎")
    return line if len(line) <= MAX_CELL else f"{line[: MAX_CELL - 1]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
