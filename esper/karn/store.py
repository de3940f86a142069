"""Reading a run's telemetry: a finished run's file, or the snapshot that a living run has published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb

from esper.karn.sandbox import Answer, QueryLimits, answer, connect_confined
from esper.karn.views.overlay import overlay_views
from esper.leyline.telemetry.precision import as_double

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

TELEMETRY_FILE = "telemetry.duckdb"
SNAPSHOT_FILE = "telemetry.snapshot.duckdb"
NEWEST_SCHEMA = 2
"""Version of the file's own tables up to which this code can read."""
OWNED_ELSEWHERE = ("Could not set lock", "Conflicting lock", "different configuration")
"""What DuckDB says where another process, or another connection of this one, has the file open for writing."""
DAMAGED = "Corrupt database file"
"""What DuckDB says of a block that is not as it was written."""
UNLIKE = (duckdb.CatalogException, duckdb.BinderException, duckdb.ConversionException)
"""What it raises where tables or columns are not those of telemetry."""
_MAGIC, _MAGIC_AT = b"DUCK", 8
"""Bytes of every DuckDB file, and where they stand."""


class StoreError(RuntimeError):
    """There is no telemetry to read, or it cannot be read now; the message says what to do."""


class _OwnedElsewhereError(StoreError):
    """Another process has the file open for writing."""


class Store:
    """A read-only view of one run.

        with Store.open("runs/2026-11-21") as store:
            curve = queries.learning_curve(store)

    Statements are confined to the file: no other file, no network, no change of settings.
    """

    def __init__(self, path: Path, connection: Any) -> None:
        self.path = path
        """File that is read."""
        self._connection = connection

    @classmethod
    def open(cls, run_dir: Path | str) -> Self:
        """Open the telemetry in `run_dir`, or a telemetry file by its own name.

        A living run owns its file, and a reader in its way would keep it from starting again: then, and where only a
        snapshot is left, the snapshot is read. Files of earlier versions get today's views; nothing in them is changed.

        Raises:
            StoreError: If there is no telemetry, if a living run has published no snapshot, or if the file is damaged or no
                telemetry file.
        """
        root = Path(run_dir)
        if root.is_file():
            return cls._open_file(root)
        live, snapshot = root / TELEMETRY_FILE, root / SNAPSHOT_FILE
        if not live.exists() and not snapshot.exists():
            raise StoreError(f"{run_dir} holds neither {TELEMETRY_FILE} nor {SNAPSHOT_FILE}; is it a run's folder?{_recorded_off(root)}")
        if not live.exists():
            return cls._open_file(snapshot)
        try:
            return cls._open_file(live)
        except _OwnedElsewhereError as error:
            if not snapshot.exists():
                raise StoreError(
                    f"{live} belongs to a running process that has not published {SNAPSHOT_FILE} yet; try again in a minute, or when the "
                    "run has ended"
                ) from error
        except StoreError as error:
            if snapshot.exists():
                raise StoreError(f"{error}; an earlier state can be read from {snapshot}") from error
            raise
        return cls._open_file(snapshot)

    @classmethod
    def _open_file(cls, path: Path) -> Self:
        _require_duckdb(path)
        connection = None
        try:
            connection = connect_confined(path)
            _require_telemetry(connection, path)
            overlay_views(connection)
        except duckdb.Error as error:
            if connection is not None:
                connection.close()
            if _is_owned_elsewhere(error):
                raise _OwnedElsewhereError(f"{path} belongs to a running process") from error
            raise StoreError(f"{path} cannot be read: {str(error).strip()}") from error
        except StoreError:
            if connection is not None:
                connection.close()
            raise
        return cls(path, connection)

    @property
    def is_snapshot(self) -> bool:
        """Whether a living run's snapshot is read, which may lag behind."""
        return self.path.name == SNAPSHOT_FILE

    @property
    def age_sec(self) -> float:
        """Seconds since the file was written last."""
        return time.time() - self.path.stat().st_mtime

    def ask(self, sql: str, limits: QueryLimits | None = None) -> Answer:
        """Run one statement of a user, within limits.

        Raises:
            QueryError: If it does not read, is wrong, or exceeds its limits.
        """
        return answer(self._connection, sql, limits or QueryLimits())

    def table(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Run a query; timestamps are UTC, and numbers told in single precision the shortest decimals that stand for them.

        Raises:
            StoreError: If the file turns out to be damaged where the query reads, or has no such table or column.
        """
        try:
            return as_double(self._connection.sql(sql, params=list(parameters)).to_arrow_table())
        except duckdb.Error as error:
            if DAMAGED in str(error):
                raise StoreError(f"{self.path} cannot be read: {str(error).strip()}") from error
            if isinstance(error, UNLIKE):
                raise StoreError(f"{self.path} does not hold what Esper's telemetry does: {str(error).strip()}") from error
            raise

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Run a query; one dict per row."""
        rows: list[dict[str, Any]] = self.table(sql, parameters).to_pylist()
        return rows

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _require_duckdb(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(_MAGIC_AT + len(_MAGIC))
    except OSError:
        return  # opening it as a database tells why
    if not start.endswith(_MAGIC):
        raise StoreError(f"{path} cannot be read: it is no DuckDB file, so no telemetry of Esper's, or its beginning is damaged")


def _require_telemetry(connection: Any, path: Path) -> None:
    tables = {table for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if not tables >= {"schema_version", "high_water_marks"}:
        raise StoreError(f"{path} is a DuckDB file, but not one of Esper's telemetry")
    found = connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0]
    if not isinstance(found, int | None):
        raise StoreError(f"{path} is a DuckDB file, but not one of Esper's telemetry: its schema version is {found!r}")
    if found is not None and found > NEWEST_SCHEMA:
        raise StoreError(f"{path} has schema version {found}; this Esper reads up to {NEWEST_SCHEMA}; use the newer one")


def _recorded_off(root: Path) -> str:
    return " A run with telemetry.level=off records nothing." if (root / "config.yaml").exists() else ""


def _is_owned_elsewhere(error: Exception) -> bool:
    return any(sign in str(error) for sign in OWNED_ELSEWHERE)
