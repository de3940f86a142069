"""Copies of an open DuckDB file: complete, without gaps, and never seen half-written."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb

from esper.nissa.sinks.base import SinkUnavailableError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 65_536
"""Size of a file's blocks. Every table takes one at least, so that the default, four times as large, makes a short run's file three
times as large; smaller ones cut long columns into pieces that compress worse."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy as it was when it was made."""

    path: Path
    identity: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Remember the file at `path`."""
        return cls(path, _identity(path))

    def is_untouched(self) -> bool:
        """Whether nobody has replaced, changed or removed it since."""
        try:
            return _identity(self.path) == self.identity
        except OSError:
            return False


def copy_database(connection: Any, path: Path) -> None:
    """Write all tables and views of the connection's database to the new file `path`.

    Raises:
        SinkUnavailableError: If there is no room for it; `path` does not exist then.
    """
    remove(path)
    try:
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS copy (BLOCK_SIZE {BLOCK_BYTES})")
        try:
            main = connection.execute("SELECT current_database()").fetchall()[0][0]
            connection.execute(f'COPY FROM DATABASE "{main}" TO copy')
        finally:
            connection.execute("DETACH copy")
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException) as error:
        remove(path)
        raise SinkUnavailableError(f"copy {path}: {error}") from error
    except duckdb.Error:
        remove(path)
        raise


def smaller_copy(connection: Any, path: Path, *, scratch: Path, newest: Copy | None) -> Path | None:
    """A copy of `path`, the connection's file, that is smaller than it is.

    Args:
        connection: Its owner's.
        path: The file, with nothing left in its log.
        scratch: Where to make the copy.
        newest: A copy of what the file holds now, if there is one.

    Returns:
        The copy; None if it would not be smaller, or if there is no room for it.
    """
    try:
        if newest is not None and newest.is_untouched():
            shutil.copyfile(newest.path, scratch)
        else:
            copy_database(connection, scratch)
        if scratch.stat().st_size < path.stat().st_size:
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            return scratch
    except (SinkUnavailableError, OSError) as error:
        logger.info("%s keeps its gaps: %s", path, error)
    remove(scratch)
    return None


def files_of(path: Path) -> tuple[Path, ...]:
    """The file of a database and those that DuckDB puts beside it while it writes."""
    return (path, *(path.with_name(path.name + suffix) for suffix in (".wal", ".wal.checkpoint", ".wal.recovery", ".checkpoint.wal")))


def remove(path: Path) -> None:
    """Remove a copy that was given up, and its log."""
    for part in files_of(path):
        part.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
