"""What telemetry costs at the default level (P9): CPU, bytes per env step, rows per second into DuckDB, size of the file.

A short run records a real stream of events. Its CPU without telemetry is the reference of the CPU share; a plain Arrow insert of
the same rows into an empty DuckDB file is the reference of the speed. Sizes are slopes over several copies of the stream, so that
the file's empty tables do not count.

python -m benchmarks.bench_telemetry --repeats 3 --json telemetry.json
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb
import pyarrow as pa

from benchmarks.measure import Figure, figure, run_benchmark, timed
from benchmarks.workloads import QUICK
from esper.distributed.config import read_run_config
from esper.distributed.session import train_run
from esper.karn.replay import replay
from esper.karn.store import Store
from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry import TelemetryEvent
from esper.leyline.telemetry.schema import events_of
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.sinks.tables import stored_rows
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import BatchId, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence


COPIES, COPIES_PER_WRITE = 200, 20
"""Copies of the stream that sizes and speeds are taken over, each with event ids of its own; and how many are stored at once, as they
are where many environments tell at the same time."""
OVERRIDES = ("rollout.rounds=1", "rollout.num_envs=8", "evaluation.seeds_per_context=0", "telemetry.console=off")


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
                "cpu_share": cpu_share(stream, root, arguments.repeats, overrides),
                **speed_and_size(stream, root, arguments.repeats),
            }

    return run_benchmark(measure, arguments.json)


def read_stream(run: Path) -> Stream:
    """Events of a run as its producers told them."""
    with Store.open(run) as store:
        batches = [_batch(rows) for stretch in replay(store) for _, rows in stretch]
        steps = store.rows("SELECT count(*) AS n FROM tolaria_epochs")[0]["n"]
    return Stream([event for batch in batches for event in events_of(batch)], batches, int(steps))


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


def speed_and_size(stream: Stream, root: Path, repeats: int) -> dict[str, Figure]:
    """Rows per second into the store and into a bare DuckDB file; bytes of both."""
    num_rows = COPIES * len(stream.events)
    rates, bare_rates, sizes, bare_sizes = [], [], [], []
    for repeat in range(repeats):
        path = root / f"speed-{repeat}.duckdb"
        sink = DuckDBSink(path, views=view_statements())
        sink.write(_stamped(stream, 0))
        sink.close()
        base, sink = path.stat().st_size, DuckDBSink(path)
        writes = [
            [batch for copy in range(first, first + COPIES_PER_WRITE) for batch in _stamped(stream, copy)]
            for first in range(1, COPIES + 1, COPIES_PER_WRITE)
        ]
        started = time.perf_counter()
        for write in writes:
            sink.write(write)
        rates.append(num_rows / (time.perf_counter() - started))
        sink.close()
        sizes.append((path.stat().st_size - base) / num_rows)
        bare_rates.append(num_rows / _bare(stream, root / f"bare-{repeat}.duckdb"))
        bare_sizes.append(sum(batch.nbytes for batch in stream.batches) / len(stream.events))
    per_step = len(stream.events) / stream.env_steps
    return {
        "rows_per_sec": figure("rows stored", "1/s", values=rates, reference="bare Arrow insert", reference_values=bare_rates),
        "bytes_per_env_step": figure(
            "bytes on disk per env step", "B", values=[size * per_step for size in sizes],
            reference="Arrow in memory", reference_values=[size * per_step for size in bare_sizes],
        ),
        "mb_per_million_events": figure(
            "size on disk", "MB per million events", values=sizes, reference="Arrow in memory", reference_values=bare_sizes
        ),
    }  # fmt: skip


def _tell(stream: Stream, emitter: BufferedEmitter) -> None:
    """Make every event anew, as producers do, and ship it."""
    for event in stream.events:
        emitter.emit(replace(event, data=replace(event.data)))
    emitter.close()


def _bare(stream: Stream, path: Path) -> float:
    """Seconds that inserting the same rows takes without identities, marks or transactions of our own."""
    identity, grouped = BatchId("env-0", 0, 1, 0, ""), dict[str, list[pa.Table]]()
    for batch in stream.batches:
        grouped.setdefault(batch.column("event_type")[0].as_py(), []).append(stored_rows(batch, identity))
    tables = {name: pa.concat_tables(parts * COPIES_PER_WRITE) for name, parts in grouped.items()}
    with duckdb.connect(str(path)) as connection:
        for name, table in tables.items():
            connection.register("incoming", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming LIMIT 0")
        started = time.perf_counter()
        for _ in range(COPIES // COPIES_PER_WRITE):
            for name, table in tables.items():
                connection.register("incoming", table)
                connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")
        return time.perf_counter() - started


def _stamped(stream: Stream, incarnation: int) -> list[pa.RecordBatch]:
    names = [batch.column("event_type")[0].as_py() for batch in stream.batches]
    fresh = [_with_new_ids(batch) for batch in stream.batches]
    return [stamp(b, BatchId("env-0", incarnation, i + 1, i, n)) for i, (b, n) in enumerate(zip(fresh, names, strict=True))]


def _with_new_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    index = batch.schema.get_field_index("event_id")
    return batch.set_column(index, batch.schema.field(index), pa.array([str(uuid4()) for _ in range(batch.num_rows)]))


def _batch(rows: pa.Table) -> pa.RecordBatch:
    index = rows.schema.get_field_index("timestamp")
    zoned = rows.set_column(index, "timestamp", rows.column(index).cast(pa.timestamp("us", tz="UTC")))
    (batch,) = zoned.combine_chunks().to_batches()
    return batch


if __name__ == "__main__":
    main()
