"""What telemetry costs at the default level (P9): CPU, bytes per env step, rows per second into DuckDB, size of the file.

A round of the quick run records a real stream of events. Its CPU without telemetry is the reference of the CPU share. The stream is
then stored over and over, near a million events, one, ten or a hundred copies at once, as a sink does that takes whatever many
environments have told meanwhile. The reference of the speed is what DuckDB takes for the same rows, joined beforehand and in as many
transactions, with its own settings. Sizes are slopes over the copies, so that the file's empty tables do not count; their reference is
4 bytes for every measured number that is no whole one.

python -m benchmarks.bench_telemetry --repeats 3 --json benchmarks/results/telemetry.json
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from benchmarks.measure import Figure, Timed, figure, run_benchmark, timed
from benchmarks.workloads import QUICK
from esper.distributed.config import read_run_config
from esper.distributed.session import train_run
from esper.karn.replay import replay
from esper.karn.store import Store
from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry import TelemetryEvent
from esper.leyline.telemetry.schema import events_of, record_batch, with_ids
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.sinks.tables import stored_rows
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import BatchId, identity_of, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence


COPIES = 1000
"""Copies of the stream that sizes are taken over, and speeds at most."""
COPIES_AT_ONCE, LONGEST = (1, 10, 100), 100
"""How many are stored in one transaction, and most transactions."""
OVERRIDES = ("rollout.rounds=1", "evaluation.seeds_per_context=0", "telemetry.console=off")


@dataclass(frozen=True)
class Stream:
    """A recorded run."""

    events: list[TelemetryEvent]
    batches: list[pa.RecordBatch]
    env_steps: int


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings of the run, e.g. task.num_train=64")
    arguments = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            overrides = [*OVERRIDES, *arguments.overrides]
            train_run(read_run_config(QUICK, overrides), root / "recorded", local=True)
            stream = read_stream(root / "recorded")
            return {
                "P9_cpu_share": cpu_share(stream, root, arguments.repeats, overrides),
                **speed(stream, root, arguments.repeats),
                **size(stream, root),
            }

    return run_benchmark(measure, arguments.json)


def read_stream(run: Path) -> Stream:
    """Events of a run as its producers told them."""
    with Store.open(run) as store:
        told = [[replace(event, event_id="") for event in events_of(_batch(rows))] for stretch in replay(store) for _, rows in stretch]
        steps = store.rows("SELECT count(*) AS n FROM tolaria_epochs")[0]["n"]
    return Stream([event for events in told for event in events], [record_batch(events) for events in told], int(steps))


def cpu_share(stream: Stream, root: Path, repeats: int, overrides: Sequence[str]) -> Figure:
    """CPU that making, shipping and storing a step's events takes, beside what a step takes without telemetry."""
    told, played = [], []
    for repeat in range(repeats):
        config = read_run_config(QUICK, [*overrides, "telemetry.level=off"])
        run = timed(lambda config=config, repeat=repeat: train_run(config, root / f"off-{repeat}", local=True))  # type: ignore[misc]
        played.append(1e3 * run.cpu_sec / stream.env_steps)
        with closing(DuckDBSink(root / f"share-{repeat}.duckdb", views=view_statements())) as sink:
            emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=TelemetryConfig())
            told.append(1e3 * timed(lambda emitter=emitter: _tell(stream, emitter)).cpu_sec / stream.env_steps)  # type: ignore[misc]
    return figure(
        "CPU of telemetry per env step", "ms", values=told, reference="CPU of an env step with telemetry off", reference_values=played,
        events_per_env_step=len(stream.events) / stream.env_steps,
    )  # fmt: skip


def speed(stream: Stream, root: Path, repeats: int) -> dict[str, Figure]:
    """Rows per second into the store and into a bare DuckDB file, by the wall and by CPU, for transactions of several sizes."""
    found: dict[str, Figure] = {}
    for at_once in COPIES_AT_ONCE:
        copies = min(COPIES, LONGEST * at_once)
        told = [_told(stream, root / f"told-{at_once}-{repeat}.duckdb", at_once, copies) for repeat in range(repeats)]
        bare = [_bare(stream, root / f"bare-{at_once}-{repeat}.duckdb", at_once, copies) for repeat in range(repeats)]
        num_rows, rows_at_once = copies * len(stream.events), at_once * len(stream.events)
        for clock in ("wall", "cpu"):
            found[f"P9_rows_per_{clock}_sec_{at_once}"] = figure(
                f"rows stored per {'CPU ' * (clock == 'cpu')}second, {rows_at_once:,} at once",
                "1/s",
                values=[num_rows / getattr(one, f"{clock}_sec") for one in told],
                reference="the same rows, joined, inserted by DuckDB alone",
                reference_values=[num_rows / getattr(one, f"{clock}_sec") for one in bare],
                rows_per_transaction=rows_at_once,
            )
    return found


def size(stream: Stream, root: Path) -> dict[str, Figure]:
    """Bytes of the closed file."""
    sizes = []
    for copies in (0, COPIES):
        path = root / f"size-{copies}.duckdb"
        with closing(DuckDBSink(path, views=view_statements())) as sink:
            for write in _writes(stream, max(COPIES_AT_ONCE), 1 + copies):
                sink.write(write)
        sizes.append(path.stat().st_size)
    per_event = (sizes[1] - sizes[0]) / (COPIES * len(stream.events))
    per_step, floor = len(stream.events) / stream.env_steps, incompressible_bytes(stream) / len(stream.events)
    return {
        "P9_bytes_per_env_step": figure(
            "bytes on disk per env step",
            "B",
            values=[per_event * per_step],
            reference="measured numbers",
            reference_values=[floor * per_step],
        ),
        "P9_mb_per_million_events": figure(
            "size on disk", "MB per million events", values=[per_event], reference="measured numbers", reference_values=[floor]
        ),
    }


def incompressible_bytes(stream: Stream) -> int:
    """Bytes that the stream's measured numbers take in single precision, whole ones left out."""
    return 4 * sum(_num_fractions(event.data.to_dict()) for event in stream.events)


def _num_fractions(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_num_fractions, value.values()))
    if isinstance(value, list):
        return sum(map(_num_fractions, value))
    return int(isinstance(value, float) and not value.is_integer())


def _tell(stream: Stream, emitter: BufferedEmitter) -> None:
    """Make every event anew, as producers do, and ship it."""
    for event in stream.events:
        emitter.emit(replace(event, data=replace(event.data)))
    emitter.close()


def _told(stream: Stream, path: Path, at_once: int, copies: int) -> Timed[None]:
    """What storing takes, so many copies of the stream in a transaction."""
    writes = _writes(stream, at_once, copies)

    def store() -> None:
        for write in writes:
            sink.write(write)

    with closing(DuckDBSink(path, views=view_statements())) as sink:
        return timed(store)


def _bare(stream: Stream, path: Path, at_once: int, copies: int) -> Timed[None]:
    """What inserting the same rows takes without identities and marks."""
    grouped: dict[str, list[pa.RecordBatch]] = {}
    for batch in _writes(stream, at_once, at_once)[0]:
        grouped.setdefault(identity_of(batch).event_type, []).append(batch)
    tables = {name: stored_rows(batches, [identity_of(batch) for batch in batches]) for name, batches in grouped.items()}
    with duckdb.connect(str(path)) as connection:
        for name, table in tables.items():
            connection.register(f"incoming_{name}", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming_{name} LIMIT 0")

        def insert() -> None:
            for _ in range(copies // at_once):
                connection.execute("BEGIN")
                for name in tables:
                    connection.execute(f"INSERT INTO {name} SELECT * FROM incoming_{name}")
                connection.execute("COMMIT")

        return timed(insert)


def _writes(stream: Stream, at_once: int, copies: int) -> list[list[pa.RecordBatch]]:
    starts = range(0, copies, at_once)
    return [[batch for copy in range(first, min(first + at_once, copies)) for batch in _stamped(stream, copy)] for first in starts]


def _stamped(stream: Stream, incarnation: int) -> list[pa.RecordBatch]:
    names = [batch.column("event_type")[0].as_py() for batch in stream.batches]
    fresh = [with_ids(batch, "env-0", incarnation, i) for i, batch in enumerate(stream.batches, start=1)]
    return [stamp(b, BatchId("env-0", incarnation, i + 1, i, n)) for i, (b, n) in enumerate(zip(fresh, names, strict=True))]


def _batch(rows: pa.Table) -> pa.RecordBatch:
    index = rows.schema.get_field_index("timestamp")
    zoned = rows.set_column(index, "timestamp", rows.column(index).cast(pa.timestamp("us", tz="UTC")))
    (batch,) = zoned.combine_chunks().to_batches()
    return batch


if __name__ == "__main__":
    main()
