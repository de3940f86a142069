"""`esper report`: a run as one HTML page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from esper.cli.exit_codes import OK
from esper.distributed.run_dir import RunDir, RunDirError
from esper.distributed.settings_file import read_settings
from esper.karn.report.run_page import REPORT_FILE, Context, write_run_page
from esper.karn.report.table import rows_of
from esper.karn.store import Store, StoreError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from esper.karn.report.table import PolicyRow


def run_report(options: argparse.Namespace) -> int:
    """Write the page and say where it lies.

    Raises:
        RunDirError: If there is no telemetry that can be read, the comparison beside it is damaged, or the page cannot be written.
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
    return dict(read_settings(path)) if path.exists() else {}


def _comparison(path: Path) -> list[PolicyRow]:
    """The closing comparison as rows; none where the run had none, or is not over."""
    if not path.exists():
        return []
    try:
        return rows_of(json.loads(path.read_text()))
    except OSError as error:
        raise RunDirError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise RunDirError(f"{path} is no comparison of policies: {what}; a report can be made without it") from error
