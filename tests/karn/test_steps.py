from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esper.karn.steps import decisions, host_epochs
from esper.karn.store import Store
from esper.leyline.telemetry.simic import ActionAlternative, RewardComputedPayload
from esper.leyline.telemetry.tolaria import TolariaEpochPayload
from tests.fakes.telemetry import event, record_run

if TYPE_CHECKING:
    from pathlib import Path

    from esper.leyline.telemetry import TelemetryEvent


def epoch(number: int, *, group: str = "train/learned/0", val_loss: float = 1.0) -> TelemetryEvent:
    norms = {"host.classifier": 0.5, "slots.0.r0c0@1.mix": 0.0} if number == 1 else None
    payload = TolariaEpochPayload(
        0, 50.0, val_loss, number, episode_idx=0, train_loss=1.5, grad_norm_per_layer=norms, forward_time_ms=3.0 if number == 1 else None
    )
    return replace(event("TOLARIA_EPOCH_COMPLETED", payload), group_id=group)


def test_epochs_have_losses_times_and_gradients_where_they_were_sampled(tmp_path: Path) -> None:
    record_run(tmp_path, [[epoch(1), epoch(2), epoch(1, group="eval/random/0")]])
    with Store.open(tmp_path) as store:
        first, second = host_epochs(store)
    assert (first.round_idx, first.inner_epoch, first.train_loss, first.val_loss) == (1, 1, 1.5, 1.0)
    assert first.grad_norm_per_layer == {"host.classifier": 0.5, "slots.0.r0c0@1.mix": 0.0}
    assert (first.forward_time_ms, second.forward_time_ms, second.grad_norm_per_layer) == (3.0, None, None)


def test_of_an_episode_played_again_the_last_life_counts(tmp_path: Path) -> None:
    record_run(tmp_path, [[epoch(1), epoch(2)], [epoch(1, val_loss=0.5)]])
    with Store.open(tmp_path) as store:
        assert [(one.inner_epoch, one.val_loss) for one in host_epochs(store)] == [(1, 0.5)]


def test_decisions_tell_what_else_was_possible(tmp_path: Path) -> None:
    others = (ActionAlternative("WAIT", 0.3), ActionAlternative("PRUNE", 0.1))
    chosen = RewardComputedPayload(
        0, 2.0, "GERMINATE", 1.5, 0.6, action_slot="r0c1", alternatives=others, decision_entropy=0.9, episode_idx=4, inner_epoch=3
    )
    forced = RewardComputedPayload(1, 0.0, "WAIT", None, 1.0, episode_idx=4, inner_epoch=3)
    record_run(tmp_path, [[replace(event("REWARD_COMPUTED", one), group_id="train/learned/4") for one in (chosen, forced)]])
    with Store.open(tmp_path) as store:
        first, second = decisions(store)
        assert decisions(store, 4) == []
    assert (first.round_idx, first.action_name, first.action_slot, first.action_confidence) == (5, "GERMINATE", "r0c1", 0.6)
    assert list(first.alternatives.items()) == [("WAIT", 0.3), ("PRUNE", 0.1)]
    assert (second.alternatives, second.value_estimate, second.decision_entropy) == ({}, None, None)
