from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import duckdb

from esper.karn.report.run_page import Context, write_run_page
from esper.karn.report.table import PolicyRow
from esper.karn.store import Store
from esper.leyline.telemetry.tolaria import TolariaRollbackPayload
from tests.fakes.telemetry import event, record_run

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = (
    "Learning",
    "Policy",
    "Heads",
    "Hosts",
    "Decisions",
    "Growth",
    "Rewards",
    "Attribution",
    "Anomalies",
    "Infrastructure",
    "Settings",
)


class Links(HTMLParser):
    """Everything that a page refers to, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [found[key] or "" for key in ("src", "href") if key in found]
        if tag == "h2":
            self.ids.append(found["id"] or "")


def page_of(run_dir: Path, out: Path, context: Context | None = None) -> str:
    with Store.open(run_dir) as store:
        return write_run_page(store, out / "report.html", context).read_text()


def test_the_page_is_one_file_with_every_section(run_dir: Path, tmp_path: Path) -> None:
    links = Links()
    links.feed(page_of(run_dir, tmp_path))
    assert links.ids == [name.lower() for name in SECTIONS]
    assert all(source.startswith(("data:", "#")) for source in links.sources)
    pictures = [source for source in links.sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == 10
    for picture in pictures:
        root = ElementTree.fromstring(base64.b64decode(picture.partition(",")[2]))
        assert root.tag.endswith("svg")
        assert len(list(root.iter())) > 40


def test_a_run_in_which_nothing_happened_has_a_page(empty_run_dir: Path, tmp_path: Path) -> None:
    page = page_of(empty_run_dir, tmp_path)
    assert "No detector has fired." in page
    assert "an unnamed task" in page


def test_troubles_of_the_telemetry_file_are_listed(run_dir: Path, tmp_path: Path) -> None:
    assert "<span>telemetry incidents</span>0" in page_of(run_dir, tmp_path)
    root = shutil.copytree(run_dir, tmp_path / "run")
    with duckdb.connect(str(root / "telemetry.duckdb")) as file:
        file.execute("INSERT INTO incidents VALUES ('2026-11-21 10:00:00', 'unreadable_wal', '/runs/x/telemetry.duckdb.wal.1')")
    page = page_of(root, tmp_path)
    assert "<span>telemetry incidents</span>1" in page
    for cell in ("2026-11-21 10:00:00", "unreadable wal", "/runs/x/telemetry.duckdb.wal.1"):
        assert f'<td class="text">{cell}</td>' in page


def test_what_telemetry_says_cannot_become_markup(run_dir: Path, tmp_path: Path) -> None:
    row = PolicyRow("<script>alert(1)</script>", 1.0, None, None, 2.0, 0.0, 0.0, 3)
    page = page_of(run_dir, tmp_path, Context({"note": "</pre><script>"}, [row]))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_anomaly_is_told_with_its_round_as_charts_count_it(tmp_path: Path) -> None:
    rollback = TolariaRollbackPayload(1, "cpu", "loss 2.16", 2.16, 2.0, 3, panic_reason="governor_divergence")
    told = [replace(event("TOLARIA_ROLLBACK", rollback), group_id=group) for group in ("train/learned/17", "eval/random/3")]
    page = page_of(record_run(tmp_path, [told]), tmp_path)
    for cell in ("round 18", "eval/random/3", "governor_divergence: loss 2.16"):
        assert f'<td class="text">{cell}</td>' in page


def test_anomalies_and_scores_are_listed(run_dir: Path, tmp_path: Path) -> None:
    page = page_of(run_dir, tmp_path)
    assert "ratio 9.1 is above 5" in page
    assert re.search(r"<td class=\"text\">attention</td>", page)
