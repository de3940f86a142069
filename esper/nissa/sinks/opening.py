"""Opening a telemetry file for writing: confined to itself, and in spite of a log that cannot be read."""

from __future__ import annotations

import logging
import re
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
    "threads": "1",
    "wal_autocheckpoint": "128MB",
}
"""Settings of every connection, since any may serve a reader. More threads than one only wait for each other at so few rows. Folding the
log in writes the last part of every table anew, so that it costs less the longer the log may be."""


LOCK_PATIENCE_SEC = 30.0
"""Longest wait for another process to let go of the file: a reader that looks into it, or a predecessor that is dying."""
LOCK_RETRY_SEC = 0.25


def open_file(path: Path, scratch: Path, *, patience_sec: float = 0.0) -> tuple[Any, Path | None]:
    """Open `path` so that no other file but `scratch` can be reached from its connections.

    Args:
        path: The file.
        scratch: Where copies of it are made.
        patience_sec: Longest wait for another process that holds the file.

    Returns:
        The connection, and where an unreadable write-ahead log was moved; None if all was well.

    Raises:
        SinkUnavailableError: If the file stays locked by another process or is not a DuckDB file.
    """
    wal = path.with_name(f"{path.name}.wal")
    deadline = time.monotonic() + patience_sec
    while True:
        try:
            return _connect(path, scratch), None
        except duckdb.Error as error:
            complaint = re.sub(r'"[^"]*"', "", str(error))  # names of files say nothing about the reason
            if "Could not set lock" in complaint or "Conflicting lock" in complaint:
                _wait_for_lock(path, error, deadline)
                continue
            if not (wal.exists() and "WAL" in complaint):
                raise SinkUnavailableError(f"{path} cannot be opened for writing: {error}") from error
            quarantined = wal.with_name(f"{wal.name}.corrupt-{time.time_ns()}")
            wal.rename(quarantined)
            logger.error("%s had an unreadable log; it is kept as %s and its last rows are missing: %s", path, quarantined, error)
            return _connect(path, scratch), quarantined


def _wait_for_lock(path: Path, error: duckdb.Error, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise SinkUnavailableError(f"{path} cannot be opened for writing while another process holds it: {error}") from error
    time.sleep(LOCK_RETRY_SEC)


def _connect(path: Path, scratch: Path) -> Any:
    connection = duckdb.connect(str(path), config=dict(SETTINGS))
    quoted = [str(part).replace("'", "''") for part in files_of(scratch)]
    reachable = ", ".join(f"'{part}'" for part in quoted)
    for setting in (f"allowed_paths = [{reachable}]", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")
    return connection
