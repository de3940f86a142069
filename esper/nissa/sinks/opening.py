"""Opening a telemetry file for writing: confined to itself, and in spite of a log that cannot be read."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import duckdb

from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.copies import BLOCK_BYTES, files_of

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

SETTINGS = {
    "default_block_size": str(BLOCK_BYTES),
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": "4GB",
}
"""Settings of every connection, since any may serve a reader."""


def open_file(path: Path, scratch: Path) -> tuple[Any, Path | None]:
    """Open `path` so that no other file but `scratch` can be reached from its connections.

    Returns:
        The connection, and where an unreadable write-ahead log was moved; None if all was well.

    Raises:
        SinkUnavailableError: If the file is locked by another process or is not a DuckDB file.
    """
    wal = path.with_name(f"{path.name}.wal")
    try:
        return _connect(path, scratch), None
    except duckdb.Error as error:
        if not (wal.exists() and "WAL" in str(error)):
            raise SinkUnavailableError(f"{path} cannot be opened for writing: {error}") from error
        quarantined = wal.with_name(f"{wal.name}.corrupt-{time.time_ns()}")
        wal.rename(quarantined)
        logger.error("%s had an unreadable log; it is kept as %s and its last rows are missing: %s", path, quarantined, error)
    return _connect(path, scratch), quarantined


def _connect(path: Path, scratch: Path) -> Any:
    connection = duckdb.connect(str(path), config=dict(SETTINGS))
    quoted = [str(part).replace("'", "''") for part in files_of(scratch)]
    reachable = ", ".join(f"'{part}'" for part in quoted)
    for setting in (f"allowed_paths = [{reachable}]", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")
    return connection
