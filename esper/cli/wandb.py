"""`esper wandb upload`: a Weights & Biases run made from a run's stored telemetry."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from esper.cli.exit_codes import OK
from esper.distributed.run_dir import RunDir, RunDirError
from esper.distributed.settings_file import read_settings
from esper.karn.replay import replay
from esper.karn.store import Store, StoreError
from esper.leyline.load import ConfigError
from esper.leyline.telemetry import TelemetryEventType
from esper.nissa.wire import BatchId, stamp

if TYPE_CHECKING:
    import argparse

    from esper.nissa.sinks.wandb import WandbSink

FOLDER = "wandb-upload"
"""Within the run's folder; what a living run logs by itself lies in `wandb`."""


def run_wandb(options: argparse.Namespace) -> int:
    """Rebuild the run, and say where it lies.

    A run that is uploaded again is the same run there: it has the same identity and replaces what was uploaded before. So it does if
    it was written offline and is synchronised later.

    Raises:
        RunDirError: If there is no telemetry that can be read.
        ConfigError: If the library refuses, or the run's settings are damaged.
    """
    from esper.nissa.sinks.base import SinkUnavailableError
    from esper.nissa.sinks.wandb import open_wandb  # takes seconds
    from esper.nissa.sinks.wandb_label import RunLabel

    paths = RunDir(options.run_dir.parent if options.run_dir.is_file() else options.run_dir)
    config = dict(read_settings(paths.config)) if paths.config.exists() else {}
    telemetry = config.get("telemetry") or {}
    if not isinstance(telemetry, Mapping):
        raise ConfigError(f"{paths.config}: telemetry: expected a mapping of settings, got {telemetry!r}")
    project = options.project or telemetry.get("wandb_project", "esper")
    try:
        with Store.open(options.run_dir) as store:
            folder = paths.root / FOLDER
            _clear(folder)
            label = RunLabel(options.name or paths.root.resolve().name, options.group)
            sink = open_wandb(options.mode, project, folder=folder, label=label, config=config)
            if sink.note:
                print(sink.note, file=sys.stderr)
            num_events = _feed(store, sink, paths)
            sink.close()
    except StoreError as error:
        raise RunDirError(str(error)) from error
    except SinkUnavailableError as error:
        raise ConfigError(str(error)) from error
    print(f"events      {num_events}\nwandb       {sink.location}")
    return OK


def _clear(folder: Path) -> None:
    """Remove all but the run's identity."""
    from esper.nissa.sinks.wandb_label import ID_FILE

    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ID_FILE:
            path.unlink()


def _feed(store: Store, sink: WandbSink, paths: RunDir) -> int:
    num_events = seq = 0
    for stretch in replay(store):
        batches = []
        for event_type, rows in stretch:
            seq += 1
            num_events += rows.num_rows
            batches.append(_batch(rows, event_type, seq, paths))
        sink.write(batches)
    return num_events


def _batch(rows: pa.Table, event_type: TelemetryEventType, seq: int, paths: RunDir) -> pa.RecordBatch:
    if event_type is TelemetryEventType.RUN_FINISHED:
        rows = _with_moved_checkpoints(rows, paths)
    (batch,) = rows.combine_chunks().to_batches(max_chunksize=None)
    return stamp(batch, BatchId("upload", 0, seq, seq - 1, event_type.name))


def _with_moved_checkpoints(rows: pa.Table, paths: RunDir) -> pa.Table:
    """The run's folder may have been moved since: checkpoints are looked for where it lies now."""
    found: list[Any] = rows.column("checkpoint_path").to_pylist()
    here = [None if path is None else str(paths.checkpoints / Path(path).name) for path in found]
    return rows.set_column(rows.schema.get_field_index("checkpoint_path"), "checkpoint_path", pa.array(here, pa.string()))
