"""The policy as a service: a packet in, a command out, and another policy in its place whenever one is offered."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.alpha import BLENDING_METHODS, AlphaMode
from esper.leyline.masks import GrowthLimits, SlotView, compute_masks
from esper.leyline.packets import HostDescription, check_kind, check_name
from esper.leyline.reports import FieldReport, SlotReport, TrialReport
from esper.leyline.schemas import RISK_LEVELS, AdaptationCommand, CommandType
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType
from esper.tamiyo.continuous import POLICY_PARAMS
from esper.tamiyo.coverage import Coverage, coverage_of
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.inspection import PolicyInspection
from esper.tamiyo.packet_adapter import report_from_checked
from esper.tamiyo.packet_check import check_packet
from esper.tamiyo.packet_untold import untold_in
from esper.tamiyo.service.commands import seed_operation
from esper.tamiyo.service.config import TamiyoServiceConfig
from esper.tamiyo.service.errors import PolicyAnswerError, PolicyRejectedError
from esper.tamiyo.service.latency import LatencyMeter
from esper.tamiyo.service.ledger import CommandLedger
from esper.tamiyo.service.manifest import ARCHITECTURE_VERSION
from esper.tamiyo.service.metric_names import metrics_of
from esper.tamiyo.service.policy_directory import StoredPolicy, load_policy
from esper.tamiyo.service.stories import health_indicators, step_evaluated, tell_loaded, tell_outcomes, tell_rejected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.leyline.packets import SystemStatePacket
    from esper.leyline.ports import Emitter
    from esper.leyline.telemetry import TamiyoStepEvaluatedPayload
    from esper.tamiyo.registries import Registries

logger = logging.getLogger(__name__)

ANONYMOUS_RUN = "default"
"""Run of packets that name none."""


@dataclass(frozen=True)
class _Served:
    """One policy and all that belongs to it; a step uses one of these from beginning to end."""

    stored: StoredPolicy
    builder: GraphBuilder
    turn: threading.Lock
    """Held while it computes: builder and policy remember what they have seen."""

    @staticmethod
    def of(stored: StoredPolicy) -> _Served:
        observing = stored.observing
        builder = GraphBuilder(
            observing.limits, steps_per_epoch=observing.steps_per_epoch, registries=observing.registries, policy_version=stored.version
        )
        return _Served(stored, builder, threading.Lock())


@dataclass(frozen=True)
class _Step:
    """What one step saw and decided."""

    report: TrialReport
    host: HostDescription | None
    decision: PolicyInspection
    coverage: Coverage

    def blueprint_name(self, place: int, registries: Registries) -> str:
        """Blueprint at a place of the head, as the host calls it, else as the policy does."""
        offered = () if self.host is None else self.host.blueprints
        return next((spec.blueprint_id for spec in offered if spec.place == place), None) or registries.blueprints.name(place + 1)


class TamiyoService:
    """Decides for training systems that describe themselves in packets.

        service = TamiyoService(Path("tamiyo_gnn_v1"))
        service.register_host("run-7", host)
        command = service.evaluate_step(packet)
        service.update_policy(Path("newer"))       # from any thread, at any time

    Everything may be called from several threads. A step uses the policy that is served when it begins; a
    policy is exchanged between steps by replacing one reference, so no step waits for it and none sees two. Steps of
    one policy compute one after the other. Packets of one run should come from one thread, in the order of its epochs.

    Args:
        policy_dir: A `tamiyo_gnn_v1` directory, as `esper export` writes it.
        device: Where the policy computes.
        emitter: Way to telemetry; None tells nobody.
        config: Settings.
        digests: Hashes that all policies must have of what they refer to; None takes those of the first.

    Raises:
        PolicyRejectedError: If the first policy cannot be used.
    """

    def __init__(
        self,
        policy_dir: Path | str,
        *,
        device: str = "cpu",
        emitter: Emitter | None = None,
        config: TamiyoServiceConfig | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config or TamiyoServiceConfig()
        self._device = device
        self._emitter = emitter
        self._hosts: dict[str, HostDescription] = {}
        self._ledger = CommandLedger(self._config)
        self._latency = LatencyMeter(self._config.latency_steps)
        self._books = threading.Lock()
        self._exchange = threading.Lock()
        self._last_step: TamiyoStepEvaluatedPayload | None = None
        self._served: _Served | None = None
        self._digests = digests
        self.update_policy(policy_dir)

    @property
    def policy_version(self) -> str:
        """The policy that answers the next packet."""
        return self._policy().stored.version

    @property
    def ledger(self) -> CommandLedger:
        """Commands that are watched, and what earlier ones came to."""
        return self._ledger

    @property
    def health_indicators(self) -> dict[str, str]:
        """`policy`: the architecture; `gnn_compile`: 1 if the network runs compiled, else 0."""
        return health_indicators(is_compiled=self._policy().stored.policy.is_compiled)

    def metrics(self) -> dict[str, float | str]:
        """The last step, and how the policy runs, under the names that operators know; unmeasured ones are absent."""
        policy = self._policy().stored.policy
        runs = {"gnn_compile_enabled": policy.is_compiled, "gnn_compile_warm_ms": policy.compile_warm_ms}
        with self._books:
            last = self._last_step
        return metrics_of(({} if last is None else last.to_dict()) | runs)

    def register_host(self, run_id: str, host: HostDescription) -> None:
        """Describe the network that a run trains; packets of runs without a description are answered with less knowledge.

        Raises:
            PacketError: If `host` is something else, or `run_id` is no text.
        """
        check_name("run_id", run_id)
        with self._books:
            self._hosts[run_id] = check_kind(f"run {run_id!r}: host", host, HostDescription)

    def forget_run(self, run_id: str) -> list[FieldReport]:
        """Stop watching a run and forget its host; its open commands are ABORTED."""
        with self._books:
            self._hosts.pop(run_id, None)
            told = self._ledger.close(run_id)
            self._tell(tell_outcomes(told))
        return told

    def update_policy(self, path: Path | str) -> str:
        """Serve the policy in `path` from the next step on; a refusal is told and leaves everything as it was.

        Returns:
            The version that is now served.

        Raises:
            PolicyRejectedError: If the directory is damaged, of another architecture, belongs to other registries, or holds a
                policy that answers with numbers that are not finite.
        """
        path = Path(path)
        with self._exchange:
            try:
                stored = load_policy(path, digests=self._digests, device=self._device, is_compiled=self._config.is_compiled)
            except PolicyRejectedError as error:
                kept = None if self._served is None else self._served.stored.version
                logger.warning("policy_update_rejected: %s; the policy stays %s", error, kept)
                with self._books:
                    self._tell([tell_rejected(error, kept)])
                raise
            self._digests = stored.digests
            self._served = _Served.of(stored)
            with self._books:
                self._tell([tell_loaded(path, stored.version)])
        return stored.version

    def evaluate_step(self, packet: SystemStatePacket) -> AdaptationCommand:
        """Decide what a training system should do next; what earlier commands came to is noted on the way.

        Raises:
            PacketError: If the packet describes something impossible.
            PolicyAnswerError: If the policy's answer is not finite. Then nothing is commanded, and the ledger stays as it was.
        """
        began = time.perf_counter()
        served = self._policy()
        packet = check_packet(packet)
        run_id = packet.training_run_id or ANONYMOUS_RUN
        with self._books:
            host = self._hosts.get(run_id)
        report = report_from_checked(packet, host, limits=served.stored.observing.limits)
        if (host is not None or packet.max_epochs is not None) and report.epoch >= report.max_epochs:
            report = replace(report, done=True)
        seen = report if report.slots else _with_nowhere(report, served.stored.observing.limits)
        with served.turn:
            graph = served.builder.build([seen])
            decision = served.stored.policy.inspect(graph)
        if decision.not_finite:
            raise PolicyAnswerError(served.stored.version, run_id, decision.not_finite)
        step = _Step(report, host, decision, coverage_of(graph, untold_in(packet, host, seen)))
        command = self._command(served, step, run_id)
        latency_ms = 1000.0 * (time.perf_counter() - began)
        with self._books:
            self._enter(served, packet, step, command, latency_ms)
        return command

    def _policy(self) -> _Served:
        served = self._served
        assert served is not None
        return served

    def _command(self, served: _Served, step: _Step, run_id: str) -> AdaptationCommand:
        decision, report = step.decision, step.report
        action = FactoredAction.from_row(decision.actions[0].tolist())
        slot = None if action.op is LifecycleOp.WAIT else report.slots[action.slot]
        registries = served.stored.observing.registries
        return AdaptationCommand(
            command_id=str(uuid4()),
            command_type=CommandType.SEED,
            target_seed_id=None if slot is None or slot.seed is None else slot.seed.seed_id,
            target_slot_id=None if slot is None else slot.slot_id,
            seed_operation=seed_operation(action, lambda place: step.blueprint_name(place, registries)),
            confidence=float(decision.confidence[0]),
            risk_level=RISK_LEVELS[int(decision.risk_probs[0].argmax())],
            policy_version=served.stored.version,
            training_run_id=run_id,
            execution_deadline_ms=self._config.execution_deadline_ms,
            annotations=_annotations(step),
        )

    def _enter(self, served: _Served, packet: SystemStatePacket, step: _Step, command: AdaptationCommand, latency_ms: float) -> None:
        """Bring ledger, latency and telemetry up to date; the caller holds the books."""
        run_id = command.training_run_id or ANONYMOUS_RUN
        told = self._ledger.observe(run_id, step.report)
        if not step.report.done:
            self._ledger.record(run_id, command, step.report)
        self._latency.add(latency_ms)
        policy = served.stored.policy
        self._last_step = step_evaluated(
            packet,
            command,
            step.coverage,
            latency_ms=(latency_ms, self._latency.percentile(50.0) or latency_ms, self._latency.percentile(95.0) or latency_ms),
            is_compiled=policy.is_compiled,
            compile_warm_ms=policy.compile_warm_ms,
        )
        self._tell([*tell_outcomes(told), TelemetryEvent(TelemetryEventType.TAMIYO_STEP_EVALUATED, self._last_step)])

    def _tell(self, events: Sequence[TelemetryEvent]) -> None:
        """Emit if somebody listens; an emitter is not thread-safe, so the caller holds the books."""
        if self._emitter is not None:
            for event in events:
                self._emitter.emit(event)


def _with_nowhere(report: TrialReport, limits: GrowthLimits) -> TrialReport:
    """The report of a host without slots with one in which nothing may be done, so that the policy can still judge value and risk."""
    nowhere = SlotReport("nowhere", 0, 0, 0, None, gradient_norm=None, activation_mean=None, activation_std=None, spatial_std=None)
    view = SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, gate_open=False)
    return replace(report, slots=(nowhere,), masks=compute_masks([view], replace(limits, ops=(LifecycleOp.WAIT,))))


def _annotations(step: _Step) -> dict[str, str]:
    """What stands behind a decision; `policy_params` only where the policy has that head."""
    decision, coverage = step.decision, step.coverage
    annotations = {
        "architecture_version": ARCHITECTURE_VERSION,
        "feature_coverage": f"{coverage.average:.4f}",
        "feature_coverage_keys": _json(coverage.by_feature),
        "feature_coverage_types": _json(coverage.by_family),
        "risk_probabilities": _json({level.name: float(p) for level, p in zip(RISK_LEVELS, decision.risk_probs[0], strict=True)}),
        "blending_probabilities": _json(dict(zip(BLENDING_METHODS, decision.blending_probs[0], strict=True))),
        "value_estimate": f"{float(decision.value[0]):.4f}",
    }
    if decision.policy_params is not None:
        annotations["policy_params"] = _json(dict(zip(POLICY_PARAMS, decision.policy_params[0], strict=True)))
    return annotations


def _json(values: Mapping[str, float]) -> str:
    return json.dumps({name: round(float(value), 4) for name, value in values.items()})
