"""What an environment part tells beyond its steps: hosts that settle, suspicions, attribution, and how often what was done."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from esper.leyline.telemetry import AnalyticsSnapshotPayload, TelemetryEvent, TelemetryEventType
from esper.simic.attribution import pair_interactions, shapley_values
from esper.simic.suspicion import SuspicionWatch
from esper.simic.trends import SettlingWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.gauges import Gauges
    from esper.leyline.reports import TrialReport
    from esper.leyline.rng import SeedTree
    from esper.nissa.emitter import BufferedEmitter

ATTRIBUTION = "attribution"
"""Under this name an episode's randomness gives the orders of a sampled attribution."""


class EnvWatch:
    """Watches one group of trials after another; decides nothing.

        watch.begin(reports)
        watch.step(group_id, i, report, action_name)
        watch.finish(group_id, last_reports, seeds)

    Args:
        emitter: Way to telemetry.
        gauges: What the process tells of itself.
    """

    def __init__(self, emitter: BufferedEmitter, gauges: Gauges) -> None:
        self._emitter = emitter
        self._gauges = gauges
        self._settling: list[SettlingWatch] = []
        self._suspicion: list[SuspicionWatch] = []
        self._actions: Counter[str] = Counter()

    def begin(self, reports: Sequence[TrialReport]) -> None:
        """Episodes begin."""
        self._settling = [SettlingWatch() for _ in reports]
        self._suspicion = [SuspicionWatch() for _ in reports]
        self._actions = Counter()
        for watch, report in zip(self._settling, reports, strict=True):
            watch.look(report)
        self._gauges.beat()

    def step(self, group_id: str, place: int, report: TrialReport, action_name: str) -> None:
        """One trial of the group took a step."""
        self._actions[action_name] += 1
        self._gauges.note(report.timings)
        self._gauges.beat()
        settled = self._settling[place].look(report)
        if settled is not None:
            self._emitter.emit(TelemetryEvent(TelemetryEventType.TAMIYO_INITIATED, settled, group_id=group_id))
        for payload in self._suspicion[place].look(report):
            event_type = TelemetryEventType.REWARD_HACKING_SUSPECTED
            self._emitter.emit(TelemetryEvent(event_type, payload, seed_id=payload.seed_id, group_id=group_id, severity="warning"))

    def finish(self, group_id: str, reports: Sequence[TrialReport], seeds: Sequence[SeedTree]) -> None:
        """The group's episodes ended with `reports`; `seeds` are the sources of their randomness."""
        for report, source in zip(reports, seeds, strict=True):
            attribution = attribution_of(report, source)
            if attribution is not None:
                self._tell(group_id, attribution)
        distribution = AnalyticsSnapshotPayload(
            kind="action_distribution",
            action_counts=dict(self._actions),
            total_events_received=self._emitter.stats().emitted_events,
            episode_idx=reports[0].episode_idx,
        )
        self._tell(group_id, distribution)
        self._gauges.round_finished()

    def close(self) -> None:
        """No more trials will come."""
        self._gauges.close()

    def _tell(self, group_id: str, payload: AnalyticsSnapshotPayload) -> None:
        self._emitter.emit(TelemetryEvent(TelemetryEventType.ANALYTICS_SNAPSHOT, payload, group_id=group_id))


def attribution_of(report: TrialReport, seeds: SeedTree) -> AnalyticsSnapshotPayload | None:
    """Shapley values of the seeds at an episode's end; None without seeds, or where the governor ended it.

    Args:
        report: The episode's last.
        seeds: Source of the episode's randomness, from which the configurations were drawn that `report` holds.
    """
    table = report.counterfactuals
    if table is None or report.epoch != report.max_epochs or not table.configurations[0]:
        return None
    names = {i: slot.slot_id for i, slot in enumerate(report.slots)}
    values = shapley_values(table, seeds.child(ATTRIBUTION).numpy())
    return AnalyticsSnapshotPayload(
        kind="shapley_computed",
        env_id=report.env_id,
        shapley_values={names[v.slot]: v.value for v in values},
        shapley_standard_errors={names[v.slot]: v.standard_error for v in values if v.standard_error is not None},
        interactions={f"{names[i]}+{names[j]}": worth for (i, j), worth in pair_interactions(table, table.configurations[0]).items()},
        episode_idx=report.episode_idx,
    )
