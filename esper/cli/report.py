"""`esper report`: a run as one HTML page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from esper.cli.main import OK
from esper.distributed.run_dir import RunDir, RunDirError
from esper.karn.report.run_page import REPORT_FILE, Context, write_run_page
from esper.karn.report.table import PolicyRow
from esper.karn.store import Store, StoreError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def run_report(options: argparse.Namespace) -> int:
    """Write the page and say where it lies.

    Raises:
        RunDirError: If there is no telemetry that can be read, or the page cannot be written.
    """
    root = options.run_dir.parent if options.run_dir.is_file() else options.run_dir
    paths = RunDir(root)
    out = options.out or root / REPORT_FILE
    try:
        with Store.open(options.run_dir) as store:
            write_run_page(store, out, Context(_settings(paths.config), _comparison(paths.comparison)))
    except StoreError as error:
        raise RunDirError(str(error)) from error
    except OSError as error:
        raise RunDirError(f"{out} cannot be written: {error.strerror}") from error
    print(f"report      {out}")
    return OK


def _settings(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _comparison(path: Path) -> list[PolicyRow]:
    """The closing comparison as rows; none where the run had none, or is not over."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return [_row(summary, found["outcomes"][summary["policy"]]) for summary in found["summaries"]]


def _row(summary: dict[str, Any], played: list[dict[str, Any]]) -> PolicyRow:
    def mean(name: str) -> float:
        return float(sum(outcome[name] for outcome in played) / len(played))

    return PolicyRow(
        policy=summary["policy"],
        utility=summary["mean"]["value"],
        utility_low=summary["mean"]["low"],
        utility_high=summary["mean"]["high"],
        accuracy=mean("final_accuracy"),
        growth_frac=mean("param_ratio") - 1.0,
        num_fossils=mean("num_fossilized"),
        num_episodes=len(played),
    )
