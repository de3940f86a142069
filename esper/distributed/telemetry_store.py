"""A run's telemetry in one place: the file, its snapshots, the live answers and W&B. A process that stores needs no torch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from esper.distributed.event_group import is_after
from esper.karn.live import LiveAnswers
from esper.karn.views.catalogue import view_statements
from esper.nissa.marks import ABANDONED
from esper.nissa.sinks.duckdb import IN_MEMORY, DuckDBSink
from esper.nissa.sinks.fan_out import FanOutSink
from esper.nissa.sinks.snapshots import SnapshotPublisher
from esper.nissa.spool import left_behind
from esper.nissa.wire import identity_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.distributed.run_dir import RunDir
    from esper.leyline.ports import Sink
    from esper.nissa.config import TelemetryConfig


class TelemetryStore:
    """The telemetry file and whoever else listens, open for writing; the only place where a run's telemetry is joined.

    Args:
        telemetry: What is recorded.
        settings: All of the run's, for whoever shows them.
        paths: The run's folder.
        keep_rounds: Forget what earlier lives of the run recorded after so many rounds; None keeps everything.
        life: Name of this life of the run; a store that is opened again under it goes on as it was.
    """

    def __init__(
        self, telemetry: TelemetryConfig, settings: Mapping[str, Any], paths: RunDir, *, keep_rounds: int | None, life: str
    ) -> None:
        self._file = DuckDBSink(paths.telemetry if telemetry.is_on else IN_MEMORY, views=view_statements())
        self._keep_rounds = keep_rounds
        self._spool = paths.spool
        self.notes = [f"telemetry: an unreadable log was set aside as {self._file.quarantined_wal}"] if self._file.quarantined_wal else []
        """What the user should know at the beginning."""
        with ExitStack() as opened:
            opened.callback(self._file.close)
            self.incarnation, self.num_openings = self._file.open_life(life)
            """Number that no producer had used in this file before this life, and how often the life has opened it."""
            self._forget()
            watchers: list[Sink] = []
            if telemetry.is_on and telemetry.snapshot_sec:
                watchers.append(SnapshotPublisher(self._file, paths.snapshot, every_sec=telemetry.snapshot_sec))
            if telemetry.wandb != "off":
                watchers.append(self._open_wandb(telemetry, settings, paths))
            self.sink = FanOutSink(self._file, watchers)
            is_live = telemetry.is_on and telemetry.live_queries
            self._answers = LiveAnswers.start(paths.root, self._file.open_reader) if is_live else None
            opened.pop_all()

    def abandon(self, source: str, incarnation: int, after_seq: int) -> int:
        """Take back what a lost producer told after batch `after_seq`; returns how many events that were.

        What it had told of finished work and left on disk is stored; what of that is nowhere is recorded in `incidents`.
        """
        mark = self._file.high_water_mark(source, incarnation)
        if mark < after_seq:
            finished = left_behind(self._spool / source, source, incarnation, after=mark, up_to=after_seq)
            self.sink.write(finished)
            missing = sorted(set(range(mark + 1, after_seq + 1)) - {identity_of(batch).seq for batch in finished})
            if missing:
                what = f"of {source} (life {incarnation}), batches {missing[0]} to {missing[-1]}: finished and never stored"
                self._file.note_incident("lost_batches", what)
        return self._file.abandon(source, incarnation, after_seq=after_seq)

    def forget_after(self, num_rounds: int) -> int:
        """Take back what anybody told of rounds after so many; returns how many events that were."""
        return self._file.forget_groups(lambda group_id: is_after(group_id, num_rounds), before_incarnation=ABANDONED)

    def close(self) -> None:
        """Forget once more what earlier lives left on disk and sent late, then close, whatever becomes of the rest."""
        with ExitStack() as stack:
            stack.callback(self.sink.close)
            stack.callback(self._note_missed)
            stack.callback(self._forget)
            if self._answers is not None:
                stack.callback(self._answers.close)

    def _open_wandb(self, telemetry: TelemetryConfig, settings: Mapping[str, Any], paths: RunDir) -> Sink:
        from esper.nissa.sinks.wandb import open_wandb
        from esper.nissa.sinks.wandb_label import RunLabel

        assert telemetry.wandb != "off"
        label, folder = RunLabel(paths.root.name, telemetry.wandb_group), paths.root / "wandb"
        sink = open_wandb(telemetry.wandb, telemetry.wandb_project, folder=folder, label=label, config=settings)
        self.notes += [sink.note] if sink.note else []
        return sink

    def _note_missed(self) -> None:
        for watcher, num_batches in self.sink.missed().items():
            self._file.note_incident("watcher_missed", f"{watcher} did not get {num_batches} batches, which this file has")

    def _forget(self) -> None:
        keep_rounds = self._keep_rounds
        if keep_rounds is not None:
            self._file.forget_groups(lambda group_id: is_after(group_id, keep_rounds), before_incarnation=self.incarnation)
