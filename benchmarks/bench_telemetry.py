"""What telemetry costs at the default level (P9): CPU, bytes per env step, rows per second into DuckDB, size of the file.

A short run records a real stream of events. Its CPU without telemetry is the reference of the CPU share. The reference of the speed
is what DuckDB takes for the same rows, joined beforehand and in as many transactions; beside it stands what one insert of all rows
reaches. Sizes are slopes over several copies of the stream, so that the file's empty tables do not count; their reference is what
no encoding can save: 8 bytes for every measured number that is no whole one, and 16 for every event's random id.

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


COPIES, COPIES_PER_WRITE = 1000, 10
"""Copies of the stream that sizes and speeds are taken over, each with event ids of its own; and how many are stored at once, as they
are where many environments tell at the same time."""
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
                **speed_and_size(stream, root, arguments.repeats),
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


def speed_and_size(stream: Stream, root: Path, repeats: int) -> dict[str, Figure]:
    """Rows per second into the store and into a bare DuckDB file, by the wall and by CPU; bytes of the closed file."""
    num_rows = COPIES * len(stream.events)
    told, bare, at_once, sizes = [], [], [], []
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
        told.append(timed(lambda sink=sink, writes=writes: [sink.write(write) for write in writes]))  # type: ignore[misc]
        sink.close()
        sizes.append((path.stat().st_size - base) / num_rows)
        bare.append(_bare(stream, root / f"bare-{repeat}.duckdb", COPIES_PER_WRITE))
        at_once.append(_bare(stream, root / f"once-{repeat}.duckdb", COPIES))
    per_step, floor = len(stream.events) / stream.env_steps, incompressible_bytes(stream) / len(stream.events)
    return {
        "P9_rows_per_sec": figure(
            "rows stored", "1/s", values=[num_rows / one.wall_sec for one in told],
            reference="the same rows, joined, inserted by DuckDB alone", reference_values=[num_rows / one.wall_sec for one in bare],
            all_in_one_insert=[num_rows / one.wall_sec for one in at_once], rows_per_transaction=COPIES_PER_WRITE * len(stream.events),
        ),
        "P9_rows_per_cpu_sec": figure(
            "rows stored per CPU second", "1/s", values=[num_rows / one.cpu_sec for one in told],
            reference="the same rows, joined, inserted by DuckDB alone", reference_values=[num_rows / one.cpu_sec for one in bare],
            all_in_one_insert=[num_rows / one.cpu_sec for one in at_once],
        ),
        "P9_bytes_per_env_step": figure(
            "bytes on disk per env step", "B", values=[size * per_step for size in sizes],
            reference="measured numbers and ids", reference_values=[floor * per_step] * repeats,
        ),
        "P9_mb_per_million_events": figure(
            "size on disk", "MB per million events", values=sizes, reference="measured numbers and ids", reference_values=[floor] * repeats
        ),
    }  # fmt: skip


def incompressible_bytes(stream: Stream) -> int:
    """Bytes that the stream's random ids and its measured numbers take, whole ones left out."""
    num_measured = sum(_num_fractions(payload) for event in stream.events for payload in [event.data.to_dict()])
    return 16 * len(stream.events) + 8 * num_measured


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


def _bare(stream: Stream, path: Path, copies_per_insert: int) -> Timed[None]:
    """What inserting the same rows takes without identities and marks, in transactions of so many copies of the stream."""
    grouped: dict[str, list[pa.RecordBatch]] = {}
    for copy in range(copies_per_insert):
        for batch in _stamped(stream, copy):
            grouped.setdefault(identity_of(batch).event_type, []).append(batch)
    tables = {name: stored_rows(batches, [identity_of(batch) for batch in batches]) for name, batches in grouped.items()}
    with duckdb.connect(str(path)) as connection:
        for name, table in tables.items():
            connection.register(f"incoming_{name}", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming_{name} LIMIT 0")

        def insert() -> None:
            for _ in range(COPIES // copies_per_insert):
                connection.execute("BEGIN")
                for name in tables:
                    connection.execute(f"INSERT INTO {name} SELECT * FROM incoming_{name}")
                connection.execute("COMMIT")

        return timed(insert)


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
