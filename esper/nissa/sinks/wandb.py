"""Weights & Biases, beside the DuckDB file: one writer, optional, offline where there is no key."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import wandb

from esper.leyline.telemetry.event import TelemetryEventType, parse_event_type
from esper.leyline.telemetry.precision import as_double
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb_keys import CHARTS, STACKED, STEP_KEY, stacked, training_rows
from esper.nissa.sinks.wandb_label import RunLabel, explain_mode, resolve_mode, run_id
from esper.nissa.sinks.wandb_progress import Progress
from esper.nissa.sinks.wandb_rounds import Rounds
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from esper.nissa.sinks.wandb_label import Mode
    from esper.nissa.sinks.wandb_rounds import LoggedRound

logger = logging.getLogger(__name__)

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

    A round is logged some seconds after its end, with a point for each of its epochs, so that its points do not depend on how events
    were gathered on their way. What is not logged yet when this process is killed is missing here, as is what comes still later, and
    growth that a lost worker told of is counted here; the telemetry file has it right, and `esper wandb upload` shows that.

    Args:
        project: Weights & Biases project.
        mode: From `resolve_mode`.
        folder: Where everything goes that is to be uploaded later, the run's identity, and what it has logged: a run that goes
            on in the same folder is the same run, and logs nothing twice. If it has an identity and has logged nothing, it
            replaces what the server knows under that identity.
        label: What the run is called.
        config: The run's configuration, for display.
    """

    def __init__(
        self,
        project: str,
        mode: Mode,
        *,
        folder: Path,
        label: RunLabel,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.note = ""
        """What the user should know; empty if all is as it was asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        self._owns_data_dir = DATA_DIR not in os.environ
        if self._owns_data_dir:
            os.environ[DATA_DIR] = str(folder.resolve())  # artifacts wait for their upload beside the run
        self._progress = Progress(folder, {key for keys in CHARTS.values() for key in keys})
        is_continued = self._progress.env_steps > 0
        try:
            self._run = wandb.init(
                project=project,
                mode=mode,
                dir=str(folder),
                config=dict(config or {}),
                reinit="create_new",
                id=run_id(folder),
                resume="allow" if mode == "online" and is_continued else None,
                name=label.name,
                group=label.group or None,
            )
        except wandb.errors.Error as error:
            raise SinkUnavailableError(f"Weights & Biases: {error}") from error
        self._run.define_metric(STEP_KEY)
        self._run.define_metric("*", step_metric=STEP_KEY)
        self._label = label
        self._rounds = Rounds(self._progress.last_round, self._progress.env_steps)
        self._evaluated: list[pa.Table] = []

    @property
    def location(self) -> str:
        """Where the run can be seen, or its files if it is offline."""
        return str(self._run.url or Path(self._run.dir).parent)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Take in `batches`, and log the rounds that they end.

        Raises:
            SinkUnavailableError: If the library refuses, or the disk.
        """
        for batch in batches:
            event_type, table = parse_event_type(identity_of(batch).event_type), as_double(pa.Table.from_batches([batch]))
            self._rounds.add(event_type, table)
            if event_type is TelemetryEventType.EPISODE_OUTCOME and training_rows(table).num_rows < table.num_rows:
                self._evaluated.append(table.select(["split", "policy", "utility", "final_accuracy", "param_ratio"]))
            if event_type is TelemetryEventType.RUN_FINISHED:
                self._log_checkpoint(**table.select(["checkpoint_path", STEP_KEY]).to_pylist()[-1])
        self._log(self._rounds.ended())

    def close(self) -> None:
        """Log the rest, draw the charts, and end the run, whatever becomes of the rest."""
        with ExitStack() as stack:
            if self._owns_data_dir:
                stack.callback(os.environ.pop, DATA_DIR, None)
            stack.callback(self._run.finish)
            self._log(self._rounds.rest())
            self._log_summaries()

    def _log_summaries(self) -> None:
        history, env_steps = self._progress.history, self._progress.env_steps
        for title, keys in CHARTS.items():
            series = {key: history[key] for key in keys if key in history}
            if series:
                lines = dict(stacked(series)) if title == STACKED else series
                self._run.log({f"charts/{title}": _chart(title, lines), STEP_KEY: env_steps})
        if self._evaluated:
            self._run.log({POLICIES_KEY: _policy_table(pa.concat_tables(self._evaluated)), STEP_KEY: env_steps})

    def _log(self, rounds: Iterable[LoggedRound]) -> None:
        try:
            for one in rounds:
                for env_steps, values in one.points:
                    self._run.log({**values, STEP_KEY: env_steps})
                self._progress.note(one.number, one.env_steps, one.points)
        except (wandb.errors.Error, OSError) as error:
            raise SinkUnavailableError(f"Weights & Biases: {error}") from error

    def _log_checkpoint(self, checkpoint_path: str | None, env_steps: int) -> None:
        if checkpoint_path is None or not Path(checkpoint_path).is_dir():
            logger.warning("Weights & Biases gets no checkpoint: %s is not there", checkpoint_path)
            return
        artifact = wandb.Artifact(f"{_plain_name(self._label.name)}-checkpoint", type="model", metadata={STEP_KEY: env_steps})
        artifact.add_dir(checkpoint_path)
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
