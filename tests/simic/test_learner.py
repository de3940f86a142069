from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from esper.leyline.actions import HEAD_NAMES, LifecycleOp
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode
from esper.leyline.telemetry import TelemetryEvent, TelemetryEventType, events_of, record_batch
from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.simic.anomalies import update_anomalies
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner, forced_steps
from esper.simic.learner_state import LearnerStateError
from esper.simic.rollout import RolloutError
from esper.simic.update_report import to_payloads
from tests.fakes.policy import FakeEvaluation, FakePolicy
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, Episode, World, play_round

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch
    from esper.leyline.rollout import DecisionBatch, StepBatch

WORLD = World(0)
FAST = PPOConfig(learning_rate=0.02, minibatch_size=32)


def make_policy(seed: int = 0) -> FakePolicy:
    with SeedTree(seed).torch_scope():
        return FakePolicy(NUM_CHANNELS, NUM_SLOTS)


def make_learner(config: PPOConfig = FAST, policy: FakePolicy | None = None) -> Learner:
    return Learner(policy or make_policy(), config, SeedTree(7))


def train(learner: Learner, episodes: range) -> None:
    for episode in episodes:
        play_round(WORLD, learner, episode)
        learner.update()


def weights(learner: Learner) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in learner.state_tensors().items()}


def assert_same(a: Learner, b: Learner) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    assert a.state_json() == b.state_json()


def test_a_restored_learner_keeps_its_own_settings() -> None:
    donor = make_learner()
    train(donor, range(2))
    other = replace(FAST, learning_rate=0.003, entropy_coef=0.07, entropy_coef_final=0.07, adam_epsilon=1e-7, normaliser_decay=0.5)
    learner = make_learner(other, make_policy(seed=1))
    learner.load_state(donor.state_tensors(), json.loads(json.dumps(donor.state_json())))
    play_round(WORLD, learner, 2)
    report = learner.update()
    assert report.settings.learning_rate == 0.003
    assert report.settings.entropy_coef == 0.07
    assert learner.state_json()["normaliser"]["decay"] == 0.5
    assert report.version == 3


@pytest.mark.parametrize("popart", [False, True])
def test_resume_is_bit_exact(popart: bool) -> None:
    config = replace(FAST, popart=popart, anneal_updates=5, learning_rate_final=0.001)
    straight = make_learner(config)
    train(straight, range(5))
    first = make_learner(config)
    train(first, range(3))
    tensors, state = first.state_tensors(), json.loads(json.dumps(first.state_json()))
    resumed = make_learner(config, make_policy(seed=99))
    resumed.load_state(tensors, state)
    assert_same(resumed, first)
    train(resumed, range(3, 5))
    assert_same(resumed, straight)


def test_saved_state_is_a_copy() -> None:
    learner = make_learner()
    train(learner, range(1))
    before = weights(learner)
    kept = {name: tensor.copy() for name, tensor in before.items()}
    train(learner, range(1, 2))
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, kept[name])


def test_arrival_order_does_not_change_an_update() -> None:
    learners = [make_learner(), make_learner()]
    play_round(WORLD, learners[0], 0, groups=(0, 1, 2, 3))
    play_round(WORLD, learners[1], 0, groups=(3, 1, 0, 2))
    for learner in learners:
        learner.update()
    assert_same(*learners)


def test_interleaved_groups_play_as_they_would_alone() -> None:
    alone, mixed = make_learner(), make_learner()
    play_round(WORLD, alone, 0, groups=(0, 1), size=3)
    episodes = [Episode(WORLD, g, tuple(range(3 * g, 3 * g + 3)), 0) for g in (0, 1)]
    while not all(episode.is_over for episode in episodes):
        for episode in reversed(episodes):
            if not episode.is_over:
                episode.advance(mixed.act(episode.message()))
    for episode in episodes:
        mixed.act(episode.message())
    alone.update()
    mixed.update()
    assert_same(alone, mixed)


def test_garbage_in_trials_that_have_ended_changes_nothing() -> None:
    class Garbled:
        """Sends noise for every trial that ended before, as an environment is free to do."""

        def __init__(self, learner: Learner) -> None:
            self.learner = learner
            self.num_garbled = 0

        def act(self, step: StepBatch, mode: ActMode = ActMode.TRAIN) -> DecisionBatch:
            self.num_garbled += int((~step.valid).sum())
            layer = step.observation.nodes["layer"]
            noise = np.random.default_rng(step.key.step).normal(scale=1e3, size=layer.shape).astype(np.float32)
            seen = {**step.observation.nodes, "layer": np.where(step.done[:, None], noise, layer)}
            garbage = np.where(step.valid, [step.reward, step.regression], 1e9).astype(np.float32)
            return self.learner.act(
                replace(
                    step,
                    observation=replace(step.observation, nodes=seen),
                    reward=garbage[0],
                    regression=garbage[1],
                    panicked=step.panicked | ~step.valid,
                )
            )

    clean, garbled = make_learner(), make_learner()
    sender = Garbled(garbled)
    play_round(WORLD, clean, 0)
    play_round(WORLD, sender, 0)
    assert sender.num_garbled > 0
    clean.update()
    garbled.update()
    assert_same(clean, garbled)


def test_greedy_decisions_are_not_learned_from_and_need_no_noise() -> None:
    learner = make_learner()
    returns = [play_round(WORLD, _Greedy(learner), 0) for _ in range(2)]
    np.testing.assert_array_equal(returns[0], returns[1])
    with pytest.raises(RolloutError, match="nothing"):
        learner.update()


def test_sampled_decisions_are_those_of_training_and_are_not_learned_from() -> None:
    trained, watched = make_learner(), make_learner()
    episode = Episode(WORLD, 0, tuple(range(6)), 0)
    decision = watched.act(episode.message(), ActMode.SAMPLED)
    np.testing.assert_array_equal(decision.actions, trained.act(episode.message()).actions)
    assert (decision.actions != watched.act(episode.message(), ActMode.GREEDY).actions).any()
    with pytest.raises(RolloutError, match="nothing"):
        watched.update()


def test_decisions_for_ended_trials_are_placeholders() -> None:
    learner = make_learner()
    episode = Episode(WORLD, 0, (0, 1), 0)
    while not episode.is_over:
        episode.advance(learner.act(episode.message()))
    decision = learner.act(episode.message())
    assert (decision.actions == LifecycleOp.WAIT).all()
    assert np.isnan(decision.value).all()
    assert learner.update().num_episodes == 2


def test_a_lost_episode_is_played_again_with_the_same_result() -> None:
    straight, faulty = make_learner(), make_learner()
    play_round(WORLD, straight, 0)
    lost = Episode(WORLD, 2, tuple(range(12, 18)), 0)
    lost.advance(faulty.act(lost.message()))
    faulty.discard(2, 0)
    play_round(WORLD, faulty, 0)
    straight.update()
    faulty.update()
    assert_same(straight, faulty)


def test_values_are_told_in_reward_units() -> None:
    learner = make_learner(replace(FAST, popart=True))
    episode = Episode(WORLD, 0, (0, 1, 2), 50)
    untrained = learner.policy.act(episode.message().observation, None).value
    np.testing.assert_array_equal(learner.act(episode.message(), ActMode.GREEDY).value, untrained)
    train(learner, range(25))
    assert learner.act(episode.message(), ActMode.GREEDY).value == pytest.approx(WORLD.optimum(), abs=0.5)


def test_forced_steps_train_the_critic_alone() -> None:
    config = replace(FAST, entropy_coef=1.0, target_kl=None)
    learner = make_learner(config)
    train_forced(learner)
    report = learner.update()
    assert report.num_forced == report.num_transitions
    assert report.is_skipped
    assert report.passes[0].policy_loss == 0.0
    assert report.passes[0].value_loss > 0.0
    after, before = weights(learner), weights(make_learner(config))
    np.testing.assert_array_equal(after["policy/op.weight"], before["policy/op.weight"])
    assert (after["policy/value_out.weight"] != before["policy/value_out.weight"]).any()


def test_policies_that_never_chose_are_not_called_alike() -> None:
    learner = make_learner(replace(FAST, target_kl=None))
    train_forced(learner)
    report = learner.update()
    stored = events_of(record_batch([TelemetryEvent(TelemetryEventType.TAMIYO_POLICY_UPDATE, p) for p in to_payloads(report)]))
    compared = ("entropy", "kl_divergence", "approx_kl_max", "kl_reverse", "clip_fraction", "numerical_stability_score", "ratio_mean")
    assert {getattr(event.data, name) for event in stored for name in compared} == {None}
    assert not {anomaly.kind for anomaly in update_anomalies(report)} & {"ratio", "stability"}


def train_forced(learner: Learner) -> None:
    class OnlyWait(World):
        def legal(self, state: int, step: int) -> list[int]:
            return [0]

    play_round(OnlyWait(0), learner, 0)


def test_forced_steps_are_those_with_only_wait() -> None:
    assert forced_steps(WORLD.masks([0, 2, 1], step=1)).tolist() == [False, True, False]


def test_kl_stops_an_update_early() -> None:
    learner = make_learner(replace(FAST, learning_rate=0.2, target_kl=1e-4))
    play_round(WORLD, learner, 0)
    report = learner.update()
    assert report.early_stop_epoch == len(report.passes) == 1
    assert 0 < report.passes[-1].num_steps < 5
    endless = make_learner(replace(FAST, learning_rate=0.2, target_kl=None))
    play_round(WORLD, endless, 0)
    report = endless.update()
    assert report.early_stop_epoch is None
    assert len(report.passes) == 4


def test_a_pass_that_took_no_step_is_not_told() -> None:
    learner = make_learner(replace(FAST, learning_rate=0.2, target_kl=1e-4, minibatch_size=10_000))
    play_round(WORLD, learner, 0)
    report = learner.update()
    assert report.early_stop_epoch == 2
    assert [done.num_steps for done in report.passes] == [1]
    assert to_payloads(report)[0].early_stop_epoch == 2


def test_ratios_are_exact_before_the_first_step() -> None:
    learner = make_learner(replace(FAST, epochs=1, minibatch_size=10_000))
    play_round(WORLD, learner, 0)
    found = learner.update().passes[0].policy
    assert found.kl_divergence == pytest.approx(0.0, abs=1e-9)
    assert found.ratio_min == pytest.approx(1.0, abs=1e-6)
    assert found.ratio_max == pytest.approx(1.0, abs=1e-6)


def test_gradient_norms_are_told_before_and_after_clipping() -> None:
    learner = make_learner(replace(FAST, max_grad_norm=1e-3, target_kl=None))
    play_round(WORLD, learner, 0)
    gradients = learner.update().passes[0].gradients
    assert gradients.pre_clip_grad_norm is not None
    assert gradients.pre_clip_grad_norm > 0.01
    assert gradients.grad_norm == pytest.approx(1e-3)
    assert gradients.grad_clip_fraction == gradients.gradient_utilization == 1.0


def test_a_step_with_broken_gradients_is_skipped_and_counted() -> None:
    class Broken(FakePolicy):
        def evaluate(self, batch: Any, actions: np.ndarray) -> FakeEvaluation:
            found = super().evaluate(batch, actions)
            return found._replace(value=found.value * torch.nan)

    learner = make_learner(policy=Broken(NUM_CHANNELS, NUM_SLOTS))
    before = weights(learner)
    play_round(WORLD, learner, 0)
    report = learner.update()
    assert report.passes[0].gradients.update_skipped
    assert report.passes[0].gradients.nan_grad_count > 0
    assert weights(learner).keys() == before.keys()
    for name, tensor in weights(learner).items():
        np.testing.assert_array_equal(tensor, before[name])


def test_weight_decay_touches_the_critic_alone() -> None:
    config = replace(FAST, critic_weight_decay=0.5, target_kl=None)
    learners = [make_learner(config), make_learner(replace(config, critic_weight_decay=0.0))]
    for learner in learners:
        train(learner, range(1))
    decayed, plain = map(weights, learners)
    np.testing.assert_array_equal(decayed["policy/op.weight"], plain["policy/op.weight"])
    assert np.abs(decayed["policy/value_out.weight"]).sum() < np.abs(plain["policy/value_out.weight"]).sum()


def test_payloads_tell_every_pass() -> None:
    learner = make_learner(replace(FAST, target_kl=None))
    play_round(WORLD, learner, 0)
    report = learner.update()
    payloads = to_payloads(report)
    assert [p.ppo_update_idx for p in payloads] == [1, 2, 3, 4]
    assert {p.policy_version for p in payloads} == {1}
    assert payloads[0].head_op_entropy is not None
    assert payloads[0].head_slot_kl is not None
    assert payloads[0].head_blueprint_kl == 0.0
    assert payloads[0].head_tempo_entropy is None
    unmeasured = {f.name for f in fields(TamiyoPolicyUpdatePayload) if getattr(payloads[-1], f.name) is None}
    not_ours = {
        "loss_scale",
        "loss_scale_updates",
        "amp_overflow_count",
        "grad_scaler_state",
        "env_steps",
        "early_stop_epoch",
        "rollback_count",
    }
    without_choice = set(HEAD_NAMES) - {"op", "slot"}
    heads = {f"head_{name}_grad_norm" for name in HEAD_NAMES} | {f"head_{name}_entropy" for name in without_choice}
    assert unmeasured == not_ours | heads
    assert [p.grad_norm_per_layer is not None for p in payloads] == [False, False, False, True]
    assert [p.layer_gradient_health is not None for p in payloads] == [False, False, False, True]


def test_norms_move_once_an_update_after_the_policy_has_learned() -> None:
    class Normalising(FakePolicy):
        def __init__(self) -> None:
            super().__init__(NUM_CHANNELS, NUM_SLOTS)
            self.log: list[int] = []

        def evaluate(self, batch: GraphBatch, actions: np.ndarray) -> FakeEvaluation:
            self.log.append(0)
            return super().evaluate(batch, actions)

        def update_norms(self, observations: GraphBatch) -> None:
            self.log.append(len(observations))

    policy = Normalising()
    learner = make_learner(policy=policy)
    play_round(WORLD, learner, 0)
    report = learner.update()
    assert policy.log[-1] == report.num_transitions
    assert set(policy.log[:-1]) == {0}


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_state_that_does_not_fit_is_refused(change: str) -> None:
    learner = make_learner()
    train(learner, range(1))
    tensors = learner.state_tensors()
    if change == "missing":
        del tensors["policy/op.bias"]
    elif change == "unknown":
        tensors["adam/exp_avg/nobody"] = torch.zeros(1)
    else:
        tensors["policy/op.bias"] = torch.zeros(3)
    with pytest.raises(LearnerStateError, match=r"op\.bias|nobody"):
        learner.load_state(tensors, learner.state_json())


def test_settings_that_the_policy_cannot_serve_are_refused() -> None:
    class Plain(torch.nn.Linear):
        def act(self, batch: Any, noise: np.ndarray | None) -> Any: ...

        def evaluate(self, batch: Any, actions: np.ndarray) -> Any: ...

    with pytest.raises(ConfigError, match="normalise_values"):
        PPOConfig(popart=True, normalise_values=False)
    with pytest.raises(ConfigError, match="rescale_value"):
        Learner(Plain(1, 1), PPOConfig(popart=True), SeedTree(0))
    with pytest.raises(ConfigError, match="critic_weight_decay"):
        Learner(Plain(1, 1), PPOConfig(critic_weight_decay=0.1), SeedTree(0))


class _Greedy:
    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def act(self, step: StepBatch, mode: ActMode = ActMode.TRAIN) -> DecisionBatch:
        return self.learner.act(step, ActMode.GREEDY)
