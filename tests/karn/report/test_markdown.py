from __future__ import annotations

from pathlib import Path

from esper.karn.report.markdown import write_report
from esper.karn.report.table import PolicyRow
from esper.karn.store import Store


def test_the_report_says_what_was_run_how_it_went_and_where_things_are(run_dir: Path, tmp_path: Path) -> None:
    rows = [PolicyRow("learned", 79.7, 76.0, 83.0, 81.4, 0.33, 2.0, 80)]
    with Store.open(run_dir) as store:
        report = write_report(
            store, tmp_path, config={"ppo": {"learning_rate": 0.001}}, comparison=rows, paths={"checkpoint": Path("/runs/x/checkpoint-12")}
        )
    text = report.read_text(encoding="utf-8")
    for fragment in (
        "# Run of image-mix",
        "- ended: completed",
        "- episodes: 96 of 400",
        "**79.7 [76.0, 83.0]**",
        "| recall/noattn | r0c2 | attention |",
        "`/runs/x/checkpoint-12`",
        "- torch 2.13",
        '"learning_rate": 0.001',
    ):
        assert fragment in text
    picture = text.partition("](")[2].partition(")")[0]
    assert (tmp_path / picture).exists()


def test_an_unfinished_run_has_a_report_too(empty_run_dir: Path, tmp_path: Path) -> None:
    with Store.open(empty_run_dir) as store:
        text = write_report(store, tmp_path, config={}).read_text(encoding="utf-8")
    assert "- ended: not yet" in text
    assert "- seed: unknown" in text
    assert "## Comparison" not in text
