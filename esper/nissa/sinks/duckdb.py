"""The one writer of a run's DuckDB file: typed tables, one transaction a write, replays dropped."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from esper.leyline.telemetry.event import parse_event_type
from esper.leyline.telemetry.schema import table_name
from esper.nissa.marks import ABANDONED, HighWaterMarks
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.copies import Copy, copy_database, remove, smaller_copy
from esper.nissa.sinks.inserts import PreparedStatements
from esper.nissa.sinks.opening import LOCK_PATIENCE_SEC, open_file
from esper.nissa.sinks.tables import ensure_tables, event_tables, stored_rows
from esper.nissa.wire import encode, identity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from esper.nissa.wire import BatchId

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
"""Version of the file's own tables; event tables widen by themselves."""
MIN_FREE_BYTES = 64 * 2**20
"""Free disk space below which nothing is written, so that the log can never be cut short."""
IN_MEMORY = Path(":memory:")
"""Stands for a file that is never written."""
_UNSTORABLE = (pa.ArrowException, duckdb.DataError, duckdb.ProgrammingError, ValueError)
"""Errors that say that a batch does not fit its table."""
_NO_ROOM = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException, duckdb.FatalException)
"""Errors of a file that cannot be written: while rows are gathered, at the end of a transaction, and when the log is folded in."""
_MARKS_SCHEMA = pa.schema([("source", pa.string()), ("incarnation", pa.int64()), ("seq", pa.int64()), ("dropped_events", pa.int64())])
_RAISE_MARKS, _ADD_MARKS = "known_marks", "new_marks"
_MARK_STATEMENTS = {
    _RAISE_MARKS: "UPDATE high_water_marks AS stored SET seq = told.seq, dropped_events = told.dropped_events FROM {incoming} AS told "
    "WHERE stored.source = told.source AND stored.incarnation = told.incarnation",
    _ADD_MARKS: "INSERT INTO high_water_marks SELECT * FROM {incoming} ANTI JOIN high_water_marks USING (source, incarnation)",
}
_OWN_TABLES = (
    "CREATE TABLE IF NOT EXISTS high_water_marks (source VARCHAR, incarnation BIGINT, seq BIGINT, dropped_events BIGINT)",
    "CREATE TABLE IF NOT EXISTS rejected_batches "
    "(producer VARCHAR, incarnation BIGINT, seq BIGINT, event_type VARCHAR, num_events BIGINT, reason VARCHAR, payload BLOB)",
    "CREATE TABLE IF NOT EXISTS incidents (noticed_at TIMESTAMP, kind VARCHAR, detail VARCHAR)",
    "CREATE TABLE IF NOT EXISTS lives (life VARCHAR, incarnation BIGINT, num_openings BIGINT)",
)


class DuckDBSink:
    """Owns `path`; no other process can open the file while this object lives.

    There is one table for each event type, from the start. A column that a batch has and its table lacks is added.

    Args:
        path: The file; made if missing.
        views: `CREATE OR REPLACE VIEW` statements, run at every opening.
        min_free_bytes: Free disk space below which writing is refused.
        lock_patience_sec: Longest wait for another process that holds the file.

    Raises:
        SinkUnavailableError: If the file stays locked by another process, is not a DuckDB file, or is of another version.
    """

    def __init__(
        self,
        path: Path,
        *,
        views: Sequence[str] = (),
        min_free_bytes: int = MIN_FREE_BYTES,
        lock_patience_sec: float = LOCK_PATIENCE_SEC,
    ) -> None:
        self._path = Path(path)
        self._min_free_bytes = min_free_bytes
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.quarantined_wal: Path | None = None
        """Where an unreadable write-ahead log was moved at opening; None if all was well."""
        self._scratch = self._path.with_name(f"{self._path.name}.copy")
        self._views = tuple(views)
        self._newest_copy: Copy | None = None
        self._is_broken = False
        self._refusal: str | None = None
        self._connection: Any = None
        self._statements: PreparedStatements
        self._start(lock_patience_sec)

    def fresh(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Those of `batches`, in order, that are neither stored yet nor ahead of a missing one."""
        return self._marks.select_new(batches)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Store the fresh ones of `batches` in one transaction.

        The first refusal is recorded in `incidents` as soon as the file can be written again. A batch that does not fit its
        table (a field changed its kind, the event type is unknown) is set aside in `rejected_batches`, so that it can neither
        be lost nor hold up the others.

        Raises:
            SinkUnavailableError: If the disk is full or the file cannot be written; nothing is stored then.
        """
        fresh = self.fresh(batches)
        if not fresh:
            return
        may_know_more = self._is_broken
        try:
            self._require_disk_space()
            with self._refusing():
                self._store_fitting(self.fresh(fresh) if may_know_more else fresh)
        except SinkUnavailableError as error:
            self._refusal = self._refusal or str(error)
            raise
        self._refusal = None

    def high_water_mark(self, source: str, incarnation: int) -> int:
        """Highest stored sequence number of a producer; 0 if none."""
        return self._marks.mark(source, incarnation)

    def open_life(self, life: str) -> tuple[int, int]:
        """Count an opening of the file within a run's life, which survives a restart of the process that stores.

        Args:
            life: Name of the life, different for every start of the run.

        Returns:
            The life's incarnation, the same at every opening and new at the first; and how often the life has opened the file.
        """
        known = self._connection.execute("SELECT incarnation, num_openings FROM lives WHERE life = ?", [life]).fetchall()
        if known:
            incarnation, num_openings = int(known[0][0]), int(known[0][1]) + 1
            self._connection.execute("UPDATE lives SET num_openings = ? WHERE life = ?", [num_openings, life])
        else:
            incarnation, num_openings = self._unused_incarnation(), 1
            self._connection.execute("INSERT INTO lives VALUES (?, ?, ?)", [life, incarnation, num_openings])
        return incarnation, num_openings

    def abandon(self, source: str, incarnation: int, *, after_seq: int) -> int:
        """Take back what a lost producer told of work that will be done again, and refuse what of it is still under way.

        Args:
            source: The producer.
            incarnation: Its life that is over.
            after_seq: Number of the last batch about work that was finished.

        Returns:
            Number of events deleted. Events about no group, such as signs of life, stay.

        Raises:
            SinkUnavailableError: If the file cannot be written; nothing is changed then.
        """
        num_deleted = 0
        key = [source, incarnation]
        with self._refusing():
            with self._transaction():
                for table in event_tables():
                    deletion = f"DELETE FROM {table} WHERE producer = ? AND incarnation = ? AND seq > ? AND group_id LIKE '%/%' RETURNING 1"
                    num_deleted += len(self._connection.execute(deletion, [*key, after_seq]).fetchall())
                if self._marks.mark(source, incarnation):
                    self._connection.execute("UPDATE high_water_marks SET seq = ? WHERE source = ? AND incarnation = ?", [ABANDONED, *key])
                else:
                    self._connection.execute("INSERT INTO high_water_marks VALUES (?, ?, ?, 0)", [*key, ABANDONED])
            self._marks.abandon(source, incarnation)
        return num_deleted

    def note_incident(self, kind: str, detail: str) -> None:
        """Record that something went wrong with telemetry itself.

        Raises:
            SinkUnavailableError: If the file cannot be written.
        """
        with self._refusing(), self._transaction():
            self._connection.execute("INSERT INTO incidents VALUES (now()::TIMESTAMP, ?, ?)", [kind, detail])

    def forget_groups(self, is_forgotten: Callable[[str], bool], *, before_incarnation: int) -> int:
        """Delete events of earlier lives that are about to happen again, or have.

        Args:
            is_forgotten: Asked about each `group_id` in the file.
            before_incarnation: Lives from this one on keep everything.

        Returns:
            Number of events deleted.

        Raises:
            SinkUnavailableError: If the file cannot be written; nothing is changed then.
        """
        doomed: dict[str, list[str]] = {}
        for table in event_tables():
            told = f"SELECT DISTINCT group_id FROM {table} WHERE incarnation < ?"
            groups = [group for (group,) in self._connection.execute(told, [before_incarnation]).fetchall() if is_forgotten(group)]
            if groups:
                doomed[table] = groups
        num_deleted = 0
        if doomed:
            with self._refusing(), self._transaction():
                for table, groups in doomed.items():
                    deletion = f"DELETE FROM {table} WHERE incarnation < ? AND list_contains(?, group_id) RETURNING 1"
                    num_deleted += len(self._connection.execute(deletion, [before_incarnation, groups]).fetchall())
        return num_deleted

    def open_reader(self) -> Any:
        """A further connection to the file, for a reader in another thread, who closes it before the file is closed.

        Raises:
            SinkUnavailableError: If the file is closed.
        """
        if self._connection is None:
            raise SinkUnavailableError(f"{self._path} is closed")
        return self._connection.cursor()

    def publish_snapshot(self, path: Path) -> Path:
        """Write a consistent copy of the file, visible to other processes all at once.

        Args:
            path: Where readers look, on the file's own disk; an older snapshot is replaced, and readers that have it open keep the
                old one.

        Raises:
            SinkUnavailableError: If the disk has no room for a copy.
        """
        path = Path(path)
        self._require_disk_space(self._path.stat().st_size)
        with self._refusing():
            copy_database(self._connection, self._scratch)
        try:
            os.replace(self._scratch, path)
        except OSError as error:
            remove(self._scratch)
            raise SinkUnavailableError(f"snapshot {path}: {error}") from error
        self._newest_copy = Copy.of(path)
        return path

    def close(self) -> None:
        """Fold the write-ahead log into the file, free it of the gaps that many small writes have left, and release it.

        Where the disk has no room for that, the log stays, and with it everything that was stored.
        """
        if self._connection is None:
            return
        compact = None
        try:
            self._statements.close()
            self._connection.execute("CHECKPOINT")
            if self._path != IN_MEMORY and self._has_room(self._path.stat().st_size):
                compact = smaller_copy(self._connection, self._path, scratch=self._scratch, newest=self._newest_copy)
        except _NO_ROOM as error:
            logger.warning("%s keeps its log until it is opened again: %s", self._path, error)
        self._connection.close()
        self._connection = None
        if compact is not None:
            os.replace(compact, self._path)

    def _unused_incarnation(self) -> int:
        used = "SELECT incarnation FROM high_water_marks UNION ALL SELECT incarnation FROM lives"
        row = self._connection.execute(f"SELECT coalesce(max(incarnation) + 1, 0) FROM ({used})").fetchall()[0]
        return int(row[0])

    def _start(self, lock_patience_sec: float = 0.0) -> None:
        self._connection, quarantined = open_file(self._path, self._scratch, patience_sec=lock_patience_sec)
        self.quarantined_wal = quarantined or self.quarantined_wal
        self._prepare(self._views, quarantined)
        rows = self._connection.execute("SELECT source, incarnation, seq FROM high_water_marks").fetchall()
        self._marks = HighWaterMarks({(source, incarnation): seq for source, incarnation, seq in rows})

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn a file that cannot be written into a refusal; a database that gave itself up meanwhile is opened again first."""
        try:
            if self._is_broken:
                self._connection.close()
                self._start()
                self._is_broken = False
            yield
        except _NO_ROOM as error:
            self._is_broken = self._is_broken or isinstance(error, duckdb.FatalException)
            raise SinkUnavailableError(f"{self._path}: {error}") from error

    def _prepare(self, views: Sequence[str], quarantined: Path | None) -> None:
        connection = self._connection
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, created_at TIMESTAMP)")
        row = connection.execute("SELECT max(version) FROM schema_version").fetchall()[0]
        if row[0] is None:
            connection.execute("INSERT INTO schema_version VALUES (?, now()::TIMESTAMP)", [SCHEMA_VERSION])
        elif row[0] != SCHEMA_VERSION:
            connection.close()
            raise SinkUnavailableError(
                f"{self._path} has schema version {row[0]}; this Esper writes {SCHEMA_VERSION}; use {_which(row[0])}"
            )
        for statement in _OWN_TABLES:
            connection.execute(statement)
        if quarantined is not None:
            connection.execute("INSERT INTO incidents VALUES (now()::TIMESTAMP, 'unreadable_wal', ?)", [str(quarantined)])
        self._known_columns = ensure_tables(connection, event_tables())
        connection.execute("BEGIN; " + "; ".join([*views, "COMMIT"]))
        connection.execute("CHECKPOINT")
        self._told = event_tables()
        self._statements = _statements(connection, self._told)

    def _adapt(self, tables: Mapping[str, pa.Table]) -> None:
        """Get ready for rows whose columns are not those of the rows before; a table that lacks one of them gets it."""
        others = {table: rows.schema for table, rows in tables.items() if not self._statements.fits(table, rows)}
        if not others:
            return
        narrow = {table: schema for table, schema in others.items() if not self._known_columns[table] >= set(schema.names)}
        self._statements.close()
        try:
            self._known_columns |= ensure_tables(self._connection, narrow)
        finally:
            self._told |= others
            self._statements = _statements(self._connection, self._told)

    def _store_fitting(self, batches: Sequence[pa.RecordBatch]) -> None:
        if not batches:
            return
        try:
            self._store(batches)
        except _UNSTORABLE:
            for batch in batches:
                self._store_or_reject(batch)

    def _store(self, batches: Sequence[pa.RecordBatch]) -> None:
        parts: dict[str, list[tuple[pa.RecordBatch, BatchId]]] = {}
        latest: dict[tuple[str, int], BatchId] = {}
        for batch in batches:
            identity = identity_of(batch)
            parts.setdefault(table_name(parse_event_type(identity.event_type)), []).append((batch, identity))
            latest[identity.source, identity.incarnation] = identity
        tables = {table: stored_rows(*zip(*part, strict=True)) for table, part in parts.items()}
        self._adapt(tables)
        with self._transaction():
            for table, rows in tables.items():
                self._statements.execute(table, rows)
            self._store_marks(latest.values())
            if self._refusal is not None:
                self._connection.execute("INSERT INTO incidents VALUES (now()::TIMESTAMP, 'refused', ?)", [self._refusal])
        for identity in latest.values():
            self._marks.advance(identity)

    def _store_or_reject(self, batch: pa.RecordBatch) -> None:
        try:
            self._store([batch])
        except _UNSTORABLE as error:
            identity = identity_of(batch)
            logger.error("telemetry batch %s of %s does not fit its table and is set aside: %s", identity.seq, identity.source, error)
            origin = [identity.source, identity.incarnation, identity.seq, identity.event_type]
            with self._transaction():
                values = [*origin, batch.num_rows, str(error), encode(batch)]
                self._connection.execute("INSERT INTO rejected_batches VALUES (?, ?, ?, ?, ?, ?, ?)", values)
                self._store_marks([identity])
            self._marks.advance(identity)

    def _store_marks(self, identities: Iterable[BatchId]) -> None:
        rows = [{name: getattr(one, name) for name in _MARKS_SCHEMA.names} for one in identities]
        marks = pa.Table.from_pylist(rows, schema=_MARKS_SCHEMA)
        self._statements.execute(_RAISE_MARKS, marks)
        self._statements.execute(_ADD_MARKS, marks)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._newest_copy = None
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _require_disk_space(self, extra_bytes: int = 0) -> None:
        if not self._has_room(extra_bytes):
            free, need = shutil.disk_usage(self._path.parent).free / 2**20, (self._min_free_bytes + extra_bytes) / 2**20
            raise SinkUnavailableError(f"{self._path.parent} has {free:.0f} MiB free, {need:.0f} MiB are needed; make room")

    def _has_room(self, extra_bytes: int) -> bool:
        return shutil.disk_usage(self._path.parent).free >= self._min_free_bytes + extra_bytes


def _which(version: int) -> str:
    return "the newer one" if version > SCHEMA_VERSION else "the older one, or begin a new run"


def _statements(connection: Any, told: Mapping[str, pa.Schema]) -> PreparedStatements:
    """How rows that have the columns `told`, by table, are stored; and the marks."""
    inserts = {table: (schema, f'INSERT INTO "{table}" BY NAME SELECT * FROM {{incoming}}') for table, schema in told.items()}
    marks = {name: (_MARKS_SCHEMA, statement) for name, statement in _MARK_STATEMENTS.items()}
    return PreparedStatements(connection, inserts | marks)
