"""Weights & Biases, beside the DuckDB file: one writer, optional, offline where there is no key."""

from __future__ import annotations

import logging
import netrc
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

import wandb

from esper.leyline.telemetry.event import TelemetryEventType, parse_event_type
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb_keys import CHARTS, STEP_KEY, points
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

logger = logging.getLogger(__name__)


def resolve_mode(
    wanted: Literal["offline", "online"], environ: Mapping[str, str], base_url: str
) -> Literal["offline", "online", "disabled"]:
    """Decide how to log before anything can ask for a login.

    Args:
        wanted: What the config says.
        environ: Environment variables; `WANDB_MODE` overrides, `WANDB_API_KEY` is a key.
        base_url: Server, whose host may have a key in `~/.netrc`.

    Returns:
        `online` only where there is a key.
    """
    override = environ.get("WANDB_MODE")
    if override in ("offline", "disabled"):
        return override  # type: ignore[return-value]
    if wanted == "online" and not environ.get("WANDB_API_KEY") and not _has_netrc_key(base_url):
        logger.warning("no Weights & Biases key for %s: logging offline; upload later with `wandb sync`", base_url)
        return "offline"
    return wanted


def open_wandb(
    wanted: Literal["offline", "online"], project: str, *, folder: Path, name: str, config: Mapping[str, Any], first_env_steps: int = -1
) -> WandbSink:
    """Start logging as `wanted`, or offline where there is no key; arguments as for `WandbSink`."""
    mode = resolve_mode(wanted, os.environ, wandb.Settings().base_url)
    return WandbSink(project, mode, folder=folder, name=name, config=config, first_env_steps=first_env_steps)


class WandbSink:
    """Logs numbers of events against env steps, and draws the charts when closed.

    Args:
        project: Weights & Biases project.
        mode: From `resolve_mode`.
        folder: Where offline files go.
        name: Label of the run.
        config: The run's configuration, for display.
        first_env_steps: Points at or before this many env steps are not logged again; set on resume.
    """

    def __init__(
        self,
        project: str,
        mode: Literal["offline", "online", "disabled"],
        *,
        folder: Path,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        first_env_steps: int = -1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(project=project, mode=mode, dir=str(folder), name=name, config=dict(config or {}), reinit="create_new")
        except wandb.errors.Error as error:
            raise SinkUnavailableError(f"Weights & Biases: {error}") from error
        self._run.define_metric(STEP_KEY)
        self._run.define_metric("*", step_metric=STEP_KEY)
        self._first_env_steps = first_env_steps
        self._env_steps = 0
        self._num_epochs = 0
        self._history: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Log the numbers in `batches`.

        Raises:
            SinkUnavailableError: If the library refuses.
        """
        for batch in batches:
            event_type = parse_event_type(identity_of(batch).event_type)
            if event_type is TelemetryEventType.TOLARIA_EPOCH_COMPLETED:
                self._num_epochs += batch.num_rows
            for env_steps, values in points(event_type, batch):
                self._env_steps = max(self._env_steps, self._num_epochs, env_steps or 0)
                self._log(self._env_steps if env_steps is None else env_steps, values)

    def close(self) -> None:
        """Draw the charts and end the run."""
        for title, keys in CHARTS.items():
            series = [(key, self._history[key]) for key in keys if self._history[key]]
            if series:
                self._run.log({f"charts/{title}": _chart(title, series), STEP_KEY: self._env_steps})
        self._run.finish()

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


def _chart(title: str, series: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Any:
    return wandb.plot.line_series(
        xs=[[step for step, _ in line] for _, line in series],
        ys=[[value for _, value in line] for _, line in series],
        keys=[key.partition("/")[2] for key, _ in series],
        title=title,
        xname=STEP_KEY,
    )


def _has_netrc_key(base_url: str) -> bool:
    try:
        entry = netrc.netrc().authenticators(urlparse(base_url).hostname or base_url)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
    return entry is not None
