"""A tiny world with a known optimum, played in lockstep groups through the learner's own messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from esper.leyline.actions import HEAD_SIZES, NUM_BLUEPRINT_PLACES, Head, LifecycleOp
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.masks import ActionMasks
from esper.leyline.rollout import ActMode, DecisionBatch, GroupId, StepBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NUM_STATES = 3
HORIZON = 5
NUM_SLOTS = 2
NUM_CHANNELS = NUM_STATES + HORIZON + 1
MOVES = (
    (LifecycleOp.WAIT, 0),
    (LifecycleOp.GERMINATE, 0),
    (LifecycleOp.GERMINATE, 1),
    (LifecycleOp.PRUNE, 0),
    (LifecycleOp.FOSSILIZE, 0),
)
"""FOSSILIZE ends the episode; PRUNE is not legal in state 0; in state 2 only WAIT is legal at step 1."""

SETBACK = (0.0, 3.0, 20.0)
"""Points by which growth sets a trial back in the step that leaves a state."""


class Actor(Protocol):
    def act(self, step: StepBatch, mode: ActMode = ActMode.TRAIN) -> DecisionBatch: ...


class World:
    """Deterministic transitions and rewards from tables; a state and a step decide everything."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.reward = rng.uniform(-1.0, 1.0, (NUM_STATES, len(MOVES)))
        self.successor = rng.integers(NUM_STATES, size=(NUM_STATES, len(MOVES)))

    def legal(self, state: int, step: int) -> list[int]:
        if state == 2 and step == 1:
            return [0]
        return [0, 1, 2, 4] if state == 0 else [0, 1, 2, 3, 4]

    def optimum(self) -> np.ndarray:
        """[NUM_STATES] best return from each state at step 0, by dynamic programming."""
        value = np.zeros(NUM_STATES)
        for step in range(HORIZON - 1, -1, -1):
            value = np.array([max(self._worth(s, m, value) for m in self.legal(s, step)) for s in range(NUM_STATES)])
        return value

    def masks(self, states: Sequence[int], step: int) -> ActionMasks:
        k = len(states)
        op = np.zeros((k, len(LifecycleOp)), dtype=bool)
        slot = np.ones((k, len(LifecycleOp), NUM_SLOTS), dtype=bool)
        slot[:, [LifecycleOp.PRUNE, LifecycleOp.FOSSILIZE], 1] = False
        for row, state in enumerate(states):
            op[row, [MOVES[move][0] for move in self.legal(state, min(step, HORIZON - 1))]] = True
        others = [np.ones((k, HEAD_SIZES[head]), dtype=bool) for head in (Head.STYLE, Head.TEMPO, Head.ALPHA_TARGET)]
        speeds = [np.ones((k, HEAD_SIZES[head]), dtype=bool) for head in (Head.ALPHA_SPEED, Head.ALPHA_CURVE)]
        return ActionMasks(op, slot, np.ones((k, NUM_BLUEPRINT_PLACES), dtype=bool), *others, *speeds)

    def observe(self, states: Sequence[int], step: int) -> GraphBatch:
        k = len(states)
        layer = np.zeros((k, NODE_WIDTHS["layer"]), dtype=np.float32)
        layer[np.arange(k), states] = 1.0
        layer[:, NUM_STATES + step] = 1.0
        counts = {"layer": 1, "seed": NUM_SLOTS, "activation": 0, "parameter": 0}
        nodes = {t: np.zeros((k * counts[t], width), dtype=np.float32) for t, width in NODE_WIDTHS.items()} | {"layer": layer}
        return GraphBatch(
            nodes=nodes,
            num_nodes={t: np.full(k, counts[t]) for t in NODE_WIDTHS},
            edges={e: np.zeros((2, 0), dtype=np.int64) for e in EDGE_WIDTHS},
            edge_attr={e: np.zeros((0, width), dtype=np.float32) for e, width in EDGE_WIDTHS.items()},
            num_edges={e: np.zeros(k, dtype=np.int64) for e in EDGE_WIDTHS},
            masks=self.masks(states, step),
        )

    def play(self, actor: Actor, group: int, env_ids: tuple[int, ...], *, episode: int, mode: ActMode = ActMode.TRAIN) -> np.ndarray:
        """Play one episode with K trials; trial `env` starts in state `env % NUM_STATES`. Returns [K] returns."""
        play = Episode(self, group, env_ids, episode)
        while not play.is_over:
            play.advance(actor.act(play.message(), mode))
        actor.act(play.message(), mode)
        return play.returns

    def _worth(self, state: int, move: int, following: np.ndarray) -> float:
        ends = MOVES[move][0] is LifecycleOp.FOSSILIZE
        return float(self.reward[state, move] + (0.0 if ends else following[self.successor[state, move]]))


class Episode:
    """One group of K trials in play. What must not be read is NaN."""

    def __init__(self, world: World, group: int, env_ids: tuple[int, ...], episode: int) -> None:
        k = len(env_ids)
        self.world, self.group, self.env_ids, self.episode = world, group, env_ids, episode
        self.states = [env % NUM_STATES for env in env_ids]
        self.step = 0
        self.reward = np.full(k, np.nan, dtype=np.float32)
        self.done = np.zeros(k, dtype=bool)
        self.valid = np.ones(k, dtype=bool)
        self.returns = np.zeros(k)
        self.regression = np.full(k, np.nan, dtype=np.float32)

    @property
    def is_over(self) -> bool:
        return bool(self.done.all())

    def message(self) -> StepBatch:
        key = GroupId(self.group, self.env_ids, self.episode, self.step)
        return StepBatch(
            key,
            self.world.observe(self.states, self.step),
            self.reward.copy(),
            self.done.copy(),
            self.valid.copy(),
            regression=self.regression.copy(),
            panicked=np.zeros(len(self.states), dtype=bool),
        )

    def advance(self, decision: DecisionBatch) -> None:
        running = ~self.done
        self.valid = running.copy()
        self.reward = np.full(len(self.states), np.nan, dtype=np.float32)
        self.regression = np.full(len(self.states), np.nan, dtype=np.float32)
        for i in np.flatnonzero(running):
            row = decision.actions[i]
            op = LifecycleOp(row[Head.OP])
            move = MOVES.index((op, 0 if op is LifecycleOp.WAIT else int(row[Head.SLOT])))
            assert move in self.world.legal(self.states[i], self.step)
            self.reward[i] = self.world.reward[self.states[i], move]
            self.returns[i] += self.reward[i]
            self.regression[i] = SETBACK[self.states[i]]
            self.states[i] = int(self.world.successor[self.states[i], move])
            self.done[i] = op is LifecycleOp.FOSSILIZE or self.step == HORIZON - 1
        self.step += 1


def play_round(world: World, actor: Actor, episode: int, *, groups: Iterable[int] = range(4), size: int = 6) -> np.ndarray:
    """Every group plays one episode; group g holds environments g·size…"""
    return np.concatenate([world.play(actor, g, tuple(range(g * size, (g + 1) * size)), episode=episode) for g in groups])
