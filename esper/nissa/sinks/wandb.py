"""Weights & Biases, beside the DuckDB file: one writer, optional, offline where there is no key."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import wandb

from esper.leyline.telemetry.event import TelemetryEventType, parse_event_type
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb_keys import CHARTS, STACKED, STEP_KEY, points, stacked, training_rows
from esper.nissa.sinks.wandb_label import RunLabel, explain_mode, logged_env_steps, note_logged, resolve_mode, run_id
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper.nissa.sinks.wandb_label import Mode

logger = logging.getLogger(__name__)

LOG_SEC = 1.0
"""Shortest time between two calls of the library: what arrives meanwhile is joined."""
MAX_CHART_POINTS = 1000
"""Points of a series in a chart; of longer ones every n-th is drawn."""
DATA_DIR = "WANDB_DATA_DIR"
POLICIES_KEY = "evaluation/policies"


def open_wandb(
    wanted: Literal["offline", "online"], project: str, *, folder: Path, label: RunLabel, config: Mapping[str, Any]
) -> WandbSink:
    """Start logging as `wanted`, or offline where there is no key; arguments as for `WandbSink`."""
    base_url = wandb.Settings().base_url
    mode = resolve_mode(wanted, os.environ, base_url)
    sink = WandbSink(project, mode, folder=folder, label=label, config=config)
    sink.note = explain_mode(wanted, mode, os.environ, base_url)
    return sink


class WandbSink:
    """Logs numbers of training events against env steps; at the end the charts, the comparison and the last checkpoint.

    Args:
        project: Weights & Biases project.
        mode: From `resolve_mode`.
        folder: Where everything goes that is to be uploaded later, the run's identity, and how far it has logged: a run that
            goes on in the same folder logs nothing twice.
        label: What the run is called.
        config: The run's configuration, for display.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        project: str,
        mode: Mode,
        *,
        folder: Path,
        label: RunLabel,
        config: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.note = ""
        """What the user should know; empty if all is as it was asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        self._owns_data_dir = DATA_DIR not in os.environ
        if self._owns_data_dir:
            os.environ[DATA_DIR] = str(folder.resolve())  # artifacts wait for their upload beside the run
        try:
            self._run = wandb.init(
                project=project,
                mode=mode,
                dir=str(folder),
                config=dict(config or {}),
                reinit="create_new",
                id=run_id(folder),
                resume="allow" if mode == "online" else None,
                name=label.name,
                group=label.group or None,
            )
        except wandb.errors.Error as error:
            raise SinkUnavailableError(f"Weights & Biases: {error}") from error
        self._run.define_metric(STEP_KEY)
        self._run.define_metric("*", step_metric=STEP_KEY)
        self._folder = folder
        self._label = label
        self._clock = clock
        self._last_flush_sec = clock()
        self._first_env_steps = logged_env_steps(folder)
        self._env_steps = 0
        self._num_epochs = 0
        self._waiting: dict[TelemetryEventType, list[pa.Table]] = {}
        self._history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._evaluated: list[pa.Table] = []

    @property
    def location(self) -> str:
        """Where the run can be seen, or its files if it is offline."""
        return str(self._run.url or Path(self._run.dir).parent)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Take note of the numbers in `batches`; log them when it is time to.

        Raises:
            SinkUnavailableError: If the library refuses.
        """
        for batch in batches:
            event_type = parse_event_type(identity_of(batch).event_type)
            self._waiting.setdefault(event_type, []).append(pa.Table.from_batches([batch]))
        if self._clock() - self._last_flush_sec >= LOG_SEC:
            self.flush()

    def flush(self) -> None:
        """Log what waits: one call for each event type, or row where rows count.

        Raises:
            SinkUnavailableError: If the library refuses.
        """
        waiting, self._waiting = self._waiting, {}
        self._last_flush_sec = self._clock()
        epochs = waiting.pop(TelemetryEventType.TOLARIA_EPOCH_COMPLETED, None)
        if epochs is not None:
            waiting = {TelemetryEventType.TOLARIA_EPOCH_COMPLETED: epochs, **waiting}
        for event_type, tables in waiting.items():
            self._log_rows(event_type, pa.concat_tables(tables, promote_options="permissive"))
        if waiting:
            note_logged(self._folder, max(self._env_steps, self._first_env_steps))

    def close(self) -> None:
        """Log the rest, draw the charts, and end the run, whatever becomes of the rest."""
        with ExitStack() as stack:
            if self._owns_data_dir:
                stack.callback(os.environ.pop, DATA_DIR, None)
            stack.callback(self._run.finish)
            self.flush()
            self._log_summaries()

    def _log_summaries(self) -> None:
        for title, keys in CHARTS.items():
            series = {key: self._history[key] for key in keys if self._history[key]}
            if series:
                lines = dict(stacked(series)) if title == STACKED else series
                self._run.log({f"charts/{title}": _chart(title, lines), STEP_KEY: self._env_steps})
        if self._evaluated:
            self._run.log({POLICIES_KEY: _policy_table(pa.concat_tables(self._evaluated)), STEP_KEY: self._env_steps})

    def _log_rows(self, event_type: TelemetryEventType, table: pa.Table) -> None:
        rows = training_rows(table)
        if event_type is TelemetryEventType.TOLARIA_EPOCH_COMPLETED:
            self._num_epochs += rows.num_rows
        for env_steps, values in points(event_type, rows):
            self._env_steps = max(self._env_steps, self._num_epochs, env_steps or 0)
            self._log(self._env_steps if env_steps is None else env_steps, values)
        if event_type is TelemetryEventType.EPISODE_OUTCOME and rows.num_rows < table.num_rows:
            self._evaluated.append(table.select(["split", "policy", "utility", "final_accuracy", "param_ratio"]))
        if event_type is TelemetryEventType.RUN_FINISHED:
            self._log_checkpoint(table.column("checkpoint_path").to_pylist()[-1])

    def _log(self, env_steps: int, values: Mapping[str, float]) -> None:
        if not values or env_steps <= self._first_env_steps:
            return
        try:
            self._run.log({**values, STEP_KEY: env_steps})
        except wandb.errors.Error as error:
            raise SinkUnavailableError(f"Weights & Biases: {error}") from error
        for keys in CHARTS.values():
            for key in keys:
                if key in values:
                    self._history[key].append((env_steps, values[key]))

    def _log_checkpoint(self, path: str | None) -> None:
        if path is None or not Path(path).is_dir():
            logger.warning("Weights & Biases gets no checkpoint: %s is not there", path)
            return
        artifact = wandb.Artifact(f"{_plain_name(self._label.name)}-checkpoint", type="model", metadata={STEP_KEY: self._env_steps})
        artifact.add_dir(path)
        self._run.log_artifact(artifact)


def _policy_table(rows: pa.Table) -> Any:
    """Mean results of every policy in the closing comparison."""
    found = rows.filter(pc.not_equal(rows.column("split"), "train")).group_by(["split", "policy"])
    means = found.aggregate([("utility", "count"), ("utility", "mean"), ("final_accuracy", "mean"), ("param_ratio", "mean")])
    columns = ["split", "policy", "utility_count", "utility_mean", "final_accuracy_mean", "param_ratio_mean"]
    data = [[row[name] for name in columns] for row in means.to_pylist()]
    return wandb.Table(columns=["split", "policy", "episodes", "utility", "accuracy", "param_ratio"], data=data)


def _chart(title: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> Any:
    thinned = {key: line[:: max(1, -(-len(line) // MAX_CHART_POINTS))] for key, line in series.items()}
    return wandb.plot.line_series(
        xs=[[step for step, _ in line] for line in thinned.values()],
        ys=[[value for _, value in line] for line in thinned.values()],
        keys=[key.partition("/")[2] for key in thinned],
        title=title,
        xname=STEP_KEY,
    )


def _plain_name(name: str) -> str:
    """Artifacts may be named with letters, digits, dashes, underscores and dots."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "run"
