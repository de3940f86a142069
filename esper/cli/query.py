"""`esper query`: one statement over a run's telemetry, as a table, CSV or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from esper.cli.main import OK
from esper.distributed.run_dir import RunDirError
from esper.karn.report.rendering import render
from esper.karn.sandbox import QueryError, QueryLimits
from esper.karn.store import Store, StoreError
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    import argparse

VIEWS = "SELECT view_name AS view FROM duckdb_views() WHERE NOT internal AND temporary ORDER BY view"


def run_query(options: argparse.Namespace) -> int:
    """Print the answer; what is to be known about it goes to standard error.

    Raises:
        RunDirError: If there is no telemetry that can be read.
        ConfigError: If the statement is refused or wrong, or a limit is.
    """
    for name, value in (("--max-rows", options.max_rows), ("--timeout", options.timeout)):
        if value <= 0:
            raise ConfigError(f"{name} {value:g} should be above 0")
    sql = VIEWS if options.sql is None else options.sql
    try:
        with Store.open(options.run_dir) as store:
            if store.is_snapshot:
                print(f"the run is alive, or its file is gone: this is its snapshot, {store.age_sec:.0f} s old", file=sys.stderr)
            found = store.ask(sql, QueryLimits(options.max_rows, options.timeout))
    except StoreError as error:
        raise RunDirError(str(error)) from error
    except QueryError as error:
        raise ConfigError(str(error)) from error
    print(render(found, options.format))
    if found.is_cut:
        print(f"cut after {options.max_rows} rows; --max-rows takes more", file=sys.stderr)
    return OK
