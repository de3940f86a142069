"""Reading a run's telemetry: a finished run's file, or the snapshot that a living run has published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

TELEMETRY_FILE = "telemetry.duckdb"
SNAPSHOT_FILE = "telemetry.snapshot.duckdb"
_SANDBOX = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}
"""Statements may read this one file and nothing else."""


class StoreError(RuntimeError):
    """There is no telemetry to read, or it cannot be read now; the message says what to do."""


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
        """Open the telemetry in `run_dir`.

        A living run owns its file, and a reader in its way would keep it from starting again: then, and where only a
        snapshot is left, the snapshot is read.

        Raises:
            StoreError: If there is no telemetry, if a living run has published no snapshot, or if the file is damaged.
        """
        live, snapshot = Path(run_dir) / TELEMETRY_FILE, Path(run_dir) / SNAPSHOT_FILE
        if not live.exists() and not snapshot.exists():
            raise StoreError(f"{run_dir} holds neither {TELEMETRY_FILE} nor {SNAPSHOT_FILE}; is it a run's folder?")
        if not live.exists():
            return cls(snapshot, _connect(snapshot))
        try:
            return cls(live, _connect(live))
        except duckdb.Error as error:
            if not _is_owned_elsewhere(error):
                raise StoreError(f"{live} cannot be read: {error}") from error
            if not snapshot.exists():
                raise StoreError(
                    f"{live} belongs to a running process that has not published {SNAPSHOT_FILE} yet; try again later"
                ) from error
        return cls(snapshot, _connect(snapshot))

    @property
    def is_snapshot(self) -> bool:
        """Whether a living run's snapshot is read, which may lag behind."""
        return self.path.name == SNAPSHOT_FILE

    def table(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Run a query; timestamps are UTC."""
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()

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


def _connect(path: Path) -> Any:
    return duckdb.connect(str(path), read_only=True, config=dict(_SANDBOX))


def _is_owned_elsewhere(error: Exception) -> bool:
    return "lock" in str(error).lower() or "different configuration" in str(error)
