"""`esper query`: one statement over a run's telemetry, as a table, CSV or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from esper.cli.exit_codes import OK
from esper.distributed.run_dir import RunDirError
from esper.karn.live import MOST, ask_live
from esper.karn.report.rendering import render
from esper.karn.sandbox import LONGEST_SEC, QueryError, QueryLimits
from esper.karn.store import Store, StoreError
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from esper.karn.sandbox import Answer

VIEWS = "SELECT DISTINCT view_name AS view FROM duckdb_views() WHERE NOT internal ORDER BY view"


def run_query(options: argparse.Namespace) -> int:
    """Print the answer; what is to be known about it goes to standard error.

    Raises:
        RunDirError: If there is no telemetry that can be read.
        ConfigError: If the statement is refused or wrong, or a limit is.
    """
    if options.max_rows < 1:
        raise ConfigError(f"--max-rows {options.max_rows} should be above 0")
    if not 0.0 < options.timeout <= LONGEST_SEC:
        raise ConfigError(f"--timeout {options.timeout:g} should be above 0 and at most {LONGEST_SEC:g} seconds")
    try:
        found = _ask(options.run_dir, VIEWS if options.sql is None else options.sql, QueryLimits(options.max_rows, options.timeout))
    except StoreError as error:
        raise RunDirError(str(error)) from error
    except QueryError as error:
        raise ConfigError(str(error)) from error
    print(render(found, options.format))
    if found.is_cut:
        print(f"cut after {len(found.rows)} rows; --max-rows takes more, a living run gives {MOST.max_rows}", file=sys.stderr)
    return OK


def _ask(run_dir: Path, sql: str, limits: QueryLimits) -> Answer:
    """Ask the living run, else its snapshot or file, and say who answers."""
    found = ask_live(run_dir, sql, limits)
    if found is not None:
        print("answered by the run, which is alive", file=sys.stderr)
        return found
    with Store.open(run_dir) as store:
        state = (
            f"a snapshot {store.age_sec:.0f} s old: the run is alive and cannot be asked, or its file is gone"
            if store.is_snapshot
            else "file"
        )
        print(f"answered from {store.path} ({state})", file=sys.stderr)
        return store.ask(sql, limits)
