"""Verdicts and commands."""

from __future__ import annotations

import pickle

import pytest

from esper.leyline.schemas import AdaptationCommand, CommandType, GovernorVerdict, PanicReason, RiskLevel, SeedOperation


@pytest.mark.parametrize(("panic", "anomalies", "healthy"), [(None, 0, True), (None, 1, False), (PanicReason.NAN, 0, False)])
def test_only_an_unremarkable_epoch_is_healthy(panic: PanicReason | None, anomalies: int, healthy: bool) -> None:
    assert GovernorVerdict(panic, loss=1.0, loss_threshold=None, consecutive_anomalies=anomalies).is_healthy is healthy


def test_risk_rises_from_green_to_critical() -> None:
    assert [level.name for level in sorted(RiskLevel)] == ["GREEN", "YELLOW", "ORANGE", "RED", "CRITICAL"]


def test_a_command_is_timed_in_utc_and_travels() -> None:
    command = AdaptationCommand(
        command_id="c1",
        command_type=CommandType.SEED,
        target_seed_id=None,
        target_slot_id="r0c0",
        seed_operation=SeedOperation("germinate", "conv", {"blending_method": "cosine"}),
        confidence=0.4,
    )
    assert command.issued_at.tzinfo is not None
    assert command.risk_level is None
    assert pickle.loads(pickle.dumps(command)) == command
