"""A sweep's report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1300px;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}tr.best{font-weight:bold;background:#fff3e8}"
    "pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:13px}.scroll{overflow-x:auto}"
)


@dataclass(frozen=True)
class SweepPage:
    """What the page says."""

    title: str
    facts: Mapping[str, str]
    picture: Path
    """A PNG, which is put into the page."""
    picture_text: str
    """What the picture shows, for those who cannot see it."""
    notes: Sequence[str]
    """Paragraphs below the picture."""
    rows: Sequence[Mapping[str, str]]
    """The table of trials, best first."""
    best_settings: str
    """YAML of what the best trial changed."""
    best_command: str
    """How to train with them."""
    confirmation: Sequence[Mapping[str, str]] = field(default=())
    """The table of the confirmation; empty where there was none."""
    confirmation_notes: Sequence[str] = field(default=())


def write_page(page: SweepPage, path: Path) -> Path:
    """Write the page; returns `path`."""
    encoded = base64.b64encode(page.picture.read_bytes()).decode()
    facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in page.facts.items())
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f"<table>{facts}</table>",
        f'<p><img alt="{escape(page.picture_text, quote=True)}" src="data:image/png;base64,{encoded}"></p>',
        *_paragraphs(page.notes),
    ]
    if page.best_settings:
        parts += ["<h2>Best settings</h2>", f"<pre>{escape(page.best_settings)}</pre>", f"<pre>{escape(page.best_command)}</pre>"]
    if page.confirmation:
        parts += ["<h2>Confirmation on further seeds</h2>", _table(page.confirmation, ""), *_paragraphs(page.confirmation_notes)]
    parts += ["<h2>Trials</h2>", _table(page.rows, "best")]
    head = f'<meta charset="utf-8"><title>{escape(page.title)}</title><style>{STYLE}</style>'
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n", encoding="utf-8"
    )
    return path


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _table(rows: Sequence[Mapping[str, str]], first_class: str) -> str:
    """The first row is marked with `first_class`."""
    headings = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else {}))
    lines = []
    for number, row in enumerate(rows):
        mark = f' class="{first_class}"' if number == 0 and first_class else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>")
    return f'<div class="scroll"><table><tr>{headings}</tr>{"".join(lines)}</table></div>'
