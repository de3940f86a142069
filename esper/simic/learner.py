"""The PPO learner: acts for groups of trials, remembers what followed, and improves the policy once a round.

The network stays in evaluation mode throughout. With dropout the policy that is evaluated would not be the one that acted,
and probability ratios would differ from 1 before the first step.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from esper.leyline.actions import NUM_HEADS, Head, LifecycleOp
from esper.leyline.load import ConfigError
from esper.leyline.rollout import ActMode, DecisionBatch, GroupId, StepBatch
from esper.simic.diagnostics import choice_diagnostics, operation_diagnostics, value_diagnostics
from esper.simic.learner_state import LearnerStateError, make_optimizer, optimizer_tensors, restore_optimizer
from esper.simic.losses import standardise
from esper.simic.normalise import ReturnNormaliser, popart_correction
from esper.simic.passes import LearnablePolicy, NormalisingPolicy, PassReport, PassSettings, RescalablePolicy, TrainingData, run_pass
from esper.simic.returns import gae
from esper.simic.risk import risk_labels
from esper.simic.rollout import Rollout, RolloutStore
from esper.simic.schedules import linear
from esper.simic.update_report import UpdateReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.masks import ActionMasks
    from esper.leyline.rng import SeedTree
    from esper.simic.config import PPOConfig


class Learner:
    """Owns a policy, its optimizer and the round's transitions.

    while running:
        decision = learner.act(step_batch)      # for every group, at every step, the last one included
    report = learner.update()                   # at the end of a round
    """

    def __init__(self, policy: LearnablePolicy, config: PPOConfig, seeds: SeedTree) -> None:
        """Take ownership of `policy`.

        Raises:
            ConfigError: If `config` asks for what the policy does not offer.
        """
        if config.popart and not isinstance(policy, RescalablePolicy):
            raise ConfigError("popart=True needs a policy with rescale_value(scale, shift)")
        policy.eval()
        self.policy = policy
        self._config = config
        self._seeds = seeds
        self._optimizer = make_optimizer(policy, config)
        self._device = next(p for _, p in policy.named_parameters()).device
        self._store = RolloutStore()
        self._normaliser = ReturnNormaliser(config.normaliser_decay)
        self._version = 0

    @property
    def version(self) -> int:
        """Updates so far."""
        return self._version

    def act(self, step: StepBatch, mode: ActMode = ActMode.TRAIN) -> DecisionBatch:
        """Decide for K trials.

        Noise belongs to (env, episode, step), so decisions do not depend on which group asked first. Where all K trials have
        ended the decisions are placeholders (WAIT, NaN) and are not kept; what is said after that is not kept either.

        Raises:
            RolloutError: If this step was seen before.
        """
        if mode is ActMode.TRAIN and step.valid.any():
            self._store.observe(step)
        if step.done.all():
            return _nothing(step.key, self._version)
        output = self.policy.act(step.observation, None if mode is ActMode.GREEDY else self._noise(step.key))
        decision = DecisionBatch(
            key=step.key,
            actions=_to_numpy(output.actions).astype(np.int64),
            log_prob=_to_numpy(output.log_prob).astype(np.float32),
            value=self._normaliser.denormalise(_to_numpy(output.value)),
            head_log_prob=_to_numpy(output.head_log_prob).astype(np.float32),
            policy_version=self._version,
            op_prob=getattr(output, "op_probs", None),
        )
        if mode is ActMode.TRAIN:
            self._store.record(decision)
        return decision

    def discard(self, group: int, episode_idx: int) -> None:
        """Forget an episode that will be played again, because its worker was lost."""
        self._store.discard(group, episode_idx)

    def update(self) -> UpdateReport:
        """Learn from the round and forget it.

        Raises:
            RolloutError: If the round is not complete; nothing is changed then.
        """
        began = time.perf_counter()
        rollout = self._store.assemble()
        is_forced = forced_steps(rollout.observations.masks)
        advantage, td_error = self._advantages(rollout)
        returns = advantage + rollout.value
        self._adopt_returns(returns)
        settings = self._settings()
        data, is_floored = self._training_data(rollout, advantage, returns, is_forced)
        passes, stopped_in = self._run_passes(data, settings)
        if isinstance(self.policy, NormalisingPolicy):
            self.policy.update_norms(rollout.observations)
        self._version += 1
        self._store.clear()
        num_episodes = int(rollout.done.sum())
        return UpdateReport(
            version=self._version,
            num_transitions=len(rollout),
            num_forced=int(is_forced.sum()),
            num_episodes=num_episodes,
            mean_episode_return=float(rollout.reward.sum(dtype=np.float64)) / num_episodes,
            values=value_diagnostics(rollout.value.astype(np.float64), returns, advantage=advantage, td_error=td_error),
            choices=choice_diagnostics(rollout.actions, rollout.log_prob, is_forced),
            operations=operation_diagnostics(
                rollout.actions[:, Head.OP], returns, is_legal=rollout.observations.masks.op, is_forced=is_forced
            ),
            is_std_floored=is_floored,
            settings=settings,
            passes=passes,
            early_stop_epoch=stopped_in,
            update_time_ms=1000.0 * (time.perf_counter() - began),
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Copies of the policy's and the optimizer's tensors, on the CPU. With `state_json` this is everything."""
        policy = {f"policy/{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors = policy | optimizer_tensors(self._optimizer, self.policy)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}

    def state_json(self) -> dict[str, Any]:
        """Counters and statistics as plain numbers; generators need no state, since they descend from version and step."""
        return {"version": self._version, "normaliser": self._normaliser.to_json()}

    def load_state(self, tensors: Mapping[str, Tensor], json: Mapping[str, Any]) -> None:
        """Continue from a saved state, bit for bit on the same machine; transitions at hand are forgotten.

        Settings are this learner's own, whatever the one that was saved had.

        Raises:
            LearnerStateError: If tensors are missing, unknown or of another shape.
        """
        own = self.policy.state_dict()
        saved = {name.removeprefix("policy/"): t for name, t in tensors.items() if name.startswith("policy/")}
        if saved.keys() != own.keys():
            raise LearnerStateError(f"saved policy differs from this one in {sorted(saved.keys() ^ own.keys())}")
        for name, tensor in own.items():
            if saved[name].shape != tensor.shape:
                raise LearnerStateError(f"saved {name} has shape {tuple(saved[name].shape)}, this policy has {tuple(tensor.shape)}")
        restore_optimizer(self._optimizer, self.policy, tensors)
        self.policy.load_state_dict(saved)
        self._normaliser = ReturnNormaliser.from_json(json["normaliser"]).with_decay(self._config.normaliser_decay)
        self._version = int(json["version"])
        self._store.clear()

    def _noise(self, key: GroupId) -> np.ndarray:
        return np.stack([self._seeds.child("act", env, key.episode_idx, key.step).numpy().random(NUM_HEADS) for env in key.env_ids])

    def _advantages(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """GAE and one-step errors [N], float64, in reward units."""
        value = torch.from_numpy(rollout.to_grid(rollout.value)).double()
        reward = torch.from_numpy(rollout.to_grid(rollout.reward)).double()
        ended = torch.from_numpy(rollout.to_grid(rollout.done.astype(np.float32)))
        discount = torch.where(ended == 0, self._config.gamma, 0.0).double()
        value_tp1 = torch.cat([value[1:], torch.full_like(value[:1], torch.nan)])
        traces = [gae(reward, discount, value, value_tp1, lambda_=lambda_) for lambda_ in (self._config.gae_lambda, 0.0)]
        advantage, td_error = (rollout.to_rows(trace.numpy()) for trace in traces)
        return advantage, td_error

    def _adopt_returns(self, returns: np.ndarray) -> None:
        if not self._config.normalise_values:
            return
        old, self._normaliser = self._normaliser, self._normaliser.updated(returns)
        if self._config.popart and isinstance(self.policy, RescalablePolicy):
            self.policy.rescale_value(*popart_correction(old, self._normaliser))

    def _settings(self) -> PassSettings:
        config = self._config
        final = config.learning_rate if config.learning_rate_final is None else config.learning_rate_final
        rate = linear(config.learning_rate, final, step=self._version, num_steps=config.anneal_updates)
        coef = linear(config.entropy_coef, config.entropy_coef_final, step=self._version, num_steps=config.anneal_updates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return PassSettings(rate, coef)

    def _training_data(
        self, rollout: Rollout, advantage: np.ndarray, returns: np.ndarray, is_forced: np.ndarray
    ) -> tuple[TrainingData, bool]:
        """The round as PPO reads it, and whether the spread of its advantages was floored."""
        is_free = torch.from_numpy(~is_forced)
        standard, is_floored = standardise(torch.from_numpy(advantage), is_free, std_floor=self._config.advantage_std_floor)
        data = TrainingData(
            observations=rollout.observations,
            actions=rollout.actions,
            log_prob=torch.from_numpy(rollout.log_prob).to(self._device),
            head_log_prob=torch.from_numpy(rollout.head_log_prob).to(self._device),
            advantage=standard.float().to(self._device),
            target=torch.from_numpy(self._normaliser.normalise(returns)).to(self._device),
            actor_weight=is_free.float().to(self._device),
            risk_label=torch.from_numpy(self._risk_labels(rollout)).to(self._device),
        )
        return data, is_floored

    def _risk_labels(self, rollout: Rollout) -> np.ndarray:
        """[N] int64 class of what followed each state."""
        regression, panicked = rollout.to_grid(rollout.regression), rollout.to_grid(rollout.panicked.astype(np.float32))
        config = self._config
        return rollout.to_rows(risk_labels(regression, panicked, window=config.risk_window_epochs, thresholds=config.risk_thresholds))

    def _run_passes(self, data: TrainingData, settings: PassSettings) -> tuple[tuple[PassReport, ...], int | None]:
        """Passes, and the one in which KL exceeded its target; that one is left out if it took no step."""
        passes: list[PassReport] = []
        for epoch in range(self._config.epochs):
            order = self._seeds.child("update", self._version, epoch).numpy().permutation(len(data.actions))
            done = run_pass(self.policy, self._optimizer, data, order, config=self._config, settings=settings)
            if done.num_steps or not passes:
                passes.append(done)
            if done.is_stopped:
                return tuple(passes), epoch + 1
        return tuple(passes), None


def forced_steps(masks: ActionMasks) -> np.ndarray:
    """[B] bool: WAIT, which has no further choices, was the only legal operation."""
    forced: np.ndarray = masks.op[:, LifecycleOp.WAIT] & (masks.op.sum(axis=1) == 1)
    return forced


def _nothing(key: GroupId, version: int) -> DecisionBatch:
    num_trials = len(key.env_ids)
    return DecisionBatch(
        key=key,
        actions=np.zeros((num_trials, NUM_HEADS), dtype=np.int64),
        log_prob=np.full(num_trials, np.nan, dtype=np.float32),
        value=np.full(num_trials, np.nan, dtype=np.float32),
        head_log_prob=np.full((num_trials, NUM_HEADS), np.nan, dtype=np.float32),
        policy_version=version,
    )


def _to_numpy(x: Tensor | np.ndarray) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else x
