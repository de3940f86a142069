from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.leyline.actions import LifecycleOp
from esper.leyline.alpha import BLENDING_METHODS
from esper.leyline.masks import explain_illegal
from esper.leyline.packets import PacketError, SeedState, SystemStatePacket
from esper.leyline.reports import FieldOutcome
from esper.leyline.schemas import AdaptationCommand, CommandType, RiskLevel
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType, record_batch
from esper.tamiyo.continuous import POLICY_PARAMS
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.packet_adapter import report_from_packet
from esper.tamiyo.service import (
    PolicyAnswerError,
    PolicyRejectedError,
    Rejection,
    TamiyoService,
    TamiyoServiceConfig,
    action_of,
    load_policy,
    save_policy,
)
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH
from tests.tamiyo.service.packets import HOST, MAX_EPOCHS, ObedientHost, make_packet
from tests.tamiyo.service.policies import DIGESTS, OBSERVING, REGISTRIES, TINY, make_policy, store

if TYPE_CHECKING:
    from pathlib import Path

SLOT_IDS = tuple(slot.slot_id for slot in HOST.slots)
PLACES = {REGISTRIES.blueprints.name(place + 1): place for place in range(32)}
NUM_THREADS = 4


class Listener:
    """Keeps events, and makes sure that they could be stored."""

    def __init__(self) -> None:
        self.events: list[TelemetryEvent] = []

    def emit(self, event: TelemetryEvent) -> None:
        record_batch([event])
        self.events.append(event)

    def of(self, event_type: TelemetryEventType) -> list[TelemetryEvent]:
        return [event for event in self.events if event.event_type is event_type]


def make_service(path: Path, listener: Listener | None = None, **settings: int) -> TamiyoService:
    service = TamiyoService(path, emitter=listener, config=TamiyoServiceConfig(**settings))  # type: ignore[arg-type]
    service.register_host("run", HOST)
    return service


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return store(tmp_path / "p")


def test_a_command_is_what_the_policy_would_do_by_itself(directory: Path) -> None:
    service = make_service(directory)
    policy = load_policy(directory).policy
    builder = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH, registries=REGISTRIES, policy_version=service.policy_version)
    for epoch in range(MAX_EPOCHS):
        packet = make_packet(epoch, 40.0 + epoch)
        report = report_from_packet(packet, HOST, limits=LIMITS)
        expected = policy.select_action(builder.build([report]))
        command = service.evaluate_step(packet)
        assert action_of(command, slot_ids=SLOT_IDS, places=PLACES) == expected
        assert explain_illegal(expected, report.masks) is None


def test_a_command_says_what_an_executor_and_an_operator_need(directory: Path) -> None:
    command = make_service(directory, execution_deadline_ms=500).evaluate_step(make_packet())
    assert command.command_type is CommandType.SEED
    assert command.issued_by == "tamiyo"
    assert (command.training_run_id, command.execution_deadline_ms) == ("run", 500)
    assert 0.0 < command.confidence <= 1.0
    assert isinstance(command.risk_level, RiskLevel)
    assert command.policy_version == load_policy(directory).version
    notes = command.annotations
    assert 0.0 < float(notes["feature_coverage"]) < 1.0
    types, keys = json.loads(notes["feature_coverage_types"]), json.loads(notes["feature_coverage_keys"])
    assert {"layer", "seed"} <= set(types)
    assert all(0.0 <= share <= 1.0 for share in (*types.values(), *keys.values()))
    risks = json.loads(notes["risk_probabilities"])
    assert sum(risks.values()) == pytest.approx(1.0, abs=1e-3)
    assert max(risks, key=risks.__getitem__) == command.risk_level.name
    assert set(json.loads(notes["blending_probabilities"])) == set(BLENDING_METHODS)


def test_adjustments_are_told_where_the_policy_has_them_and_order_nothing(directory: Path, tmp_path: Path) -> None:
    plain = make_service(directory).evaluate_step(make_packet())
    assert "policy_params" not in plain.annotations
    adjusting = tmp_path / "adjusting"
    policy = make_policy(0, replace(TINY, has_policy_params=True))
    save_policy(adjusting, policy, OBSERVING, digests=DIGESTS, num_updates=0, source={})
    command = make_service(adjusting).evaluate_step(make_packet())
    assert json.loads(command.annotations["policy_params"]) == dict.fromkeys(POLICY_PARAMS, 0.0)
    assert command.seed_operation is not None
    assert not set(POLICY_PARAMS) & set(command.seed_operation.parameters)


def test_a_run_that_was_never_described_is_answered(directory: Path) -> None:
    command = make_service(directory).evaluate_step(make_packet(run="stranger"))
    assert command.seed_operation is not None
    assert command.seed_operation.operation == "WAIT"
    seed = SeedState("s", SeedStage.TRAINING, slot_id="somewhere", blueprint_place=2, is_gate_open=True, age_epochs=9)
    assert make_service(directory).evaluate_step(replace(make_packet(run=None), seed_states=(seed,))).training_run_id == "default"


def test_an_impossible_packet_is_a_typed_error_and_leaves_no_trace(directory: Path) -> None:
    listener = Listener()
    service = make_service(directory, listener)
    with pytest.raises(PacketError, match="current_epoch"):
        service.evaluate_step(replace(make_packet(), current_epoch=-1))
    assert listener.of(TelemetryEventType.TAMIYO_STEP_EVALUATED) == []
    assert service.ledger.pending == ()


@pytest.mark.parametrize("packet", [None, {"current_epoch": 3}, replace(make_packet(), training_run_id=["run"])])  # type: ignore[arg-type]
def test_what_is_no_packet_is_a_typed_error(packet: SystemStatePacket, directory: Path) -> None:
    with pytest.raises(PacketError, match="should be"):
        make_service(directory).evaluate_step(packet)


def test_what_is_no_host_is_refused_when_it_is_registered(directory: Path) -> None:
    service = make_service(directory)
    before = service.evaluate_step(make_packet()).annotations["feature_coverage"]
    with pytest.raises(PacketError, match=r"run 'run': host=\{'layers': \(\)\} should be of class HostDescription, not dict"):
        service.register_host("run", {"layers": ()})  # type: ignore[arg-type]
    with pytest.raises(PacketError, match="run_id=7 should be text"):
        service.register_host(7, HOST)  # type: ignore[arg-type]
    assert service.evaluate_step(make_packet(4)).annotations["feature_coverage"] == before


def test_an_answer_that_is_not_finite_is_a_typed_error_and_leaves_no_trace(directory: Path, tmp_path: Path) -> None:
    listener = Listener()
    policy = make_policy(0)
    known = [REGISTRIES.layer_types.index(layer.layer_type) for layer in HOST.layers]
    policy.get_parameter("gnn.encoders.layer.tables.0.weight").data[known] = 3e38
    save_policy(tmp_path / "unsound", policy, OBSERVING, digests=DIGESTS, num_updates=0, source={})
    service = make_service(tmp_path / "unsound", listener)
    with pytest.raises(PolicyAnswerError, match="update_policy") as failed:
        service.evaluate_step(make_packet())
    assert (failed.value.policy_version, failed.value.training_run_id) == (service.policy_version, "run")
    assert {"value", "confidence", "risk_probs"} <= set(failed.value.not_finite)
    assert (service.ledger.pending, service.ledger.reports) == ((), ())
    assert listener.of(TelemetryEventType.TAMIYO_STEP_EVALUATED) == []
    service.update_policy(directory)
    assert service.evaluate_step(make_packet()).confidence > 0.0


def test_a_path_may_be_text(directory: Path, tmp_path: Path) -> None:
    listener = Listener()
    service = TamiyoService(str(directory), emitter=listener)
    version = service.policy_version
    with pytest.raises(PolicyRejectedError):
        service.update_policy(str(tmp_path / "nowhere"))
    assert listener.of(TelemetryEventType.POLICY_UPDATE_REJECTED)[0].data.to_dict()["tamiyo_policy_version"] == version
    assert service.update_policy(str(directory)) == version


def test_a_step_is_told_with_latency_coverage_and_health(directory: Path) -> None:
    listener = Listener()
    service = make_service(directory, listener)
    commands = [service.evaluate_step(make_packet(epoch)) for epoch in range(3)]
    told = listener.of(TelemetryEventType.TAMIYO_STEP_EVALUATED)
    assert [event.data.to_dict()["command_id"] for event in told] == [command.command_id for command in commands]
    last = told[-1].data.to_dict()
    assert 0.0 < last["gnn_inference_latency_p50_ms"] <= last["gnn_inference_latency_p95_ms"]
    assert last["gnn_feature_coverage"] == pytest.approx(float(commands[-1].annotations["feature_coverage"]), abs=1e-4)
    assert last["health_indicators"] == service.health_indicators == {"policy": "gnn_v1", "gnn_compile": "0"}
    assert (last["gnn_compile_enabled"], last["gnn_compile_warm_ms"]) == (False, None)
    metrics = service.metrics()
    assert metrics["tamiyo.gnn.inference.latency_ms"] == last["gnn_inference_latency_ms"]
    assert metrics["tamiyo.gnn.inference.latency_ms.p95"] == last["gnn_inference_latency_p95_ms"]
    assert metrics["tamiyo.gnn.compile_enabled"] == 0.0
    assert metrics["tamiyo.gnn.feature_coverage"] == last["gnn_feature_coverage"]
    assert "tamiyo.gnn.feature_coverage.layer" in metrics
    assert "tamiyo.gnn.compile_warm_ms" not in metrics


def test_a_whole_run_fills_the_ledger(directory: Path) -> None:
    listener = Listener()
    service = make_service(directory, listener, window_epochs=3)
    host, commands = ObedientHost(), list[AdaptationCommand]()
    while host.epoch <= MAX_EPOCHS:
        commands.append(service.evaluate_step(host.packet()))
        host.obey(commands[-1])
    reports = service.ledger.reports
    outcomes = {report.command_id: report for report in reports if report.life is None}
    assert set(outcomes) == {command.command_id for command in commands[:-1]}
    assert service.ledger.pending == ()
    assert {report.outcome for report in outcomes.values()} <= {FieldOutcome.SUCCESS, FieldOutcome.ABORTED}
    germinations = [c for c in commands if c.seed_operation is not None and c.seed_operation.operation == LifecycleOp.GERMINATE.name]
    assert germinations
    kept = [seed for seed in host.seeds.values() if seed.stage is SeedStage.FOSSILIZED]
    lives = {report.seed_id for report in reports if report.life is not None}
    assert {seed.seed_id for seed in kept} <= lives
    assert len(listener.of(TelemetryEventType.FIELD_REPORT)) == len(reports)


def test_a_run_can_be_given_up(directory: Path) -> None:
    service = make_service(directory)
    command = service.evaluate_step(make_packet())
    (told,) = service.forget_run("run")
    assert (told.command_id, told.outcome) == (command.command_id, FieldOutcome.ABORTED)
    assert service.evaluate_step(make_packet()).annotations["feature_coverage"] != command.annotations["feature_coverage"]


def test_another_policy_is_served_from_the_next_step_on(directory: Path, tmp_path: Path) -> None:
    listener = Listener()
    service = make_service(directory, listener)
    first = service.evaluate_step(make_packet()).policy_version
    second = service.update_policy(store(tmp_path / "q", 1))
    assert service.evaluate_step(make_packet()).policy_version == service.policy_version == second != first
    assert [event.message for event in listener.of(TelemetryEventType.CHECKPOINT_LOADED)] == [first, second]


def test_a_refused_policy_is_told_and_changes_nothing(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    service = make_service(directory, listener)
    before = service.evaluate_step(make_packet())
    altered, foreign = store(tmp_path / "q", 1), store(tmp_path / "r", 1, digests={**DIGESTS, "catalogue": "xyz"})
    (altered / "weights.safetensors").write_bytes(b"")
    legacy = tmp_path / "tamiyo_ffn.pt"
    legacy.write_bytes(b"\x80\x04.")
    nested = store(tmp_path / "s", 1)
    (nested / "manifest.json").write_text("[" * 100_000)
    refusals = (
        (altered, Rejection.ALTERED),
        (foreign, Rejection.DIGEST),
        (legacy, Rejection.ARCHITECTURE),
        (nested, Rejection.UNREADABLE),
    )
    for path, kind in refusals:
        with caplog.at_level(logging.WARNING), pytest.raises(PolicyRejectedError) as refused:
            service.update_policy(path)
        assert refused.value.kind is kind
        told = listener.of(TelemetryEventType.POLICY_UPDATE_REJECTED)[-1]
        assert told.severity == "warning"
        payload = told.data.to_dict()
        assert (payload["rejection"], payload["path"], payload["tamiyo_policy_version"]) == (kind.value, str(path), before.policy_version)
    assert len(listener.of(TelemetryEventType.POLICY_UPDATE_REJECTED)) == len(refusals)
    assert sum("policy_update_rejected" in record.message for record in caplog.records) == len(refusals)
    after = service.evaluate_step(make_packet())
    assert (after.policy_version, after.annotations) == (before.policy_version, before.annotations)


def test_a_service_without_a_first_policy_does_not_begin(tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(PolicyRejectedError):
        TamiyoService(tmp_path / "nowhere", emitter=listener)
    (told,) = listener.events
    assert told.data.to_dict()["tamiyo_policy_version"] is None


@pytest.mark.parametrize(("num_steps", "num_swaps"), [(160, 8), pytest.param(1000, 20, marks=pytest.mark.slow)])
def test_no_step_fails_or_mixes_policies_while_they_are_exchanged(tmp_path: Path, num_steps: int, num_swaps: int) -> None:
    directories = [store(tmp_path / str(seed), seed) for seed in range(3)]
    alone = {}
    for path in directories:
        command = make_service(path).evaluate_step(make_packet())
        alone[command.policy_version] = command.annotations["value_estimate"]
    assert len(set(alone.values())) == len(directories)
    service = make_service(directories[0])
    served = [service.policy_version]
    steps: list[tuple[int, AdaptationCommand, int]] = []
    failures: list[BaseException] = []
    turn = threading.Semaphore(0)

    def serve(run: str) -> None:
        try:
            service.register_host(run, HOST)
            for step in range(num_steps // NUM_THREADS):
                if step % (num_steps // num_swaps) == 0:
                    turn.release()
                first = len(served) - 1
                command = service.evaluate_step(make_packet(run=run))
                steps.append((first, command, len(served)))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=serve, args=(f"run-{number}",)) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for swap in range(1, num_swaps + 1):
        assert turn.acquire(timeout=600)
        served.append(service.update_policy(directories[swap % len(directories)]))
    for thread in threads:
        thread.join(timeout=600)
    assert failures == []
    assert len({command.command_id for _, command, _ in steps}) == len(steps) == num_steps
    assert {command.policy_version for _, command, _ in steps} == set(alone)
    assert all(command.annotations["value_estimate"] == alone[command.policy_version] for _, command, _ in steps)
    assert all(command.policy_version in served[first : last + 1] for first, command, last in steps)


def test_a_host_is_known_although_another_thread_forgets_runs(directory: Path) -> None:
    service = TamiyoService(directory)
    names = [f"run-{i}" for i in range(60)]
    for i in range(300):
        service.register_host(f"earlier-{i}", HOST)
    is_over = threading.Event()

    def forget() -> None:
        while not is_over.is_set():
            service.forget_run("stranger")

    thread, usual = threading.Thread(target=forget), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for name in names:
            service.register_host(name, HOST)
    finally:
        is_over.set()
        thread.join(timeout=60)
        sys.setswitchinterval(usual)

    def coverage(run: str) -> str:
        return service.evaluate_step(make_packet(run=run)).annotations["feature_coverage"]

    service.register_host("run", HOST)
    described = coverage("run")
    assert described != coverage("stranger")
    assert {coverage(name) for name in names} == {described}


def test_numbers_that_are_none_never_become_a_decision(directory: Path) -> None:
    listener = Listener()
    service = make_service(directory, listener)
    for value in (float("nan"), float("inf"), -1e308):
        packet = replace(make_packet(), validation_loss=value, training_metrics={"loss": value, "gradient_norm": abs(value)})
        command = service.evaluate_step(packet)
        assert np.isfinite(command.confidence)
        assert np.isfinite(float(command.annotations["value_estimate"]))
    service.evaluate_step(make_packet(MAX_EPOCHS))
    assert all(np.isfinite(list(report.metrics.values())).all() for report in service.ledger.reports)


ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
ANY_SEED = st.builds(
    SeedState,
    seed_id=st.sampled_from(["a", "b"]),
    stage=st.sampled_from(SeedStage),
    gradient_norm=st.none() | ANY_NUMBER,
    layer_depth=st.none() | st.integers(-1, 5),
    metrics=st.dictionaries(st.sampled_from(["contribution", "accuracy_at_germination", "unheard_of"]), ANY_NUMBER),
    age_epochs=st.none() | st.integers(-1, 20),
    slot_id=st.none() | st.sampled_from([*SLOT_IDS, "elsewhere"]),
    blueprint_place=st.none() | st.integers(-1, 40),
    alpha=st.none() | ANY_NUMBER,
    is_gate_open=st.booleans(),
)
ANY_PACKET = st.builds(
    SystemStatePacket,
    current_epoch=st.integers(-1, 30),
    validation_accuracy=ANY_NUMBER | st.floats(0.0, 100.0),
    validation_loss=ANY_NUMBER,
    training_metrics=st.dictionaries(st.sampled_from(["loss", "gradient_norm", "learning_rate", "nonsense"]), ANY_NUMBER),
    seed_states=st.lists(ANY_SEED, max_size=3).map(tuple),
    training_run_id=st.sampled_from([None, "run", "stranger", "", "層\x00", "\ud800"]),
    max_epochs=st.none() | st.integers(0, 40),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets=st.lists(ANY_PACKET, min_size=1, max_size=4))
def test_whatever_comes_in_a_command_or_a_typed_error_comes_out(directory: Path, packets: list[SystemStatePacket]) -> None:
    service = make_service(directory, Listener())
    for packet in packets:
        try:
            command = service.evaluate_step(packet)
        except PacketError:
            continue
        assert 0.0 < command.confidence <= 1.0
        assert np.isfinite(float(command.annotations["value_estimate"]))
