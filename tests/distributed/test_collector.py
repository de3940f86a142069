from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.checkpoint_folder import CheckpointFolder
from esper.distributed.collector import Collector
from esper.distributed.driver import Run, train
from esper.distributed.env_worker import ScriptedSpec
from esper.distributed.executor import InterruptedRound, LocalExecutor
from esper.distributed.facts import examine
from esper.distributed.run_dir import create_run_dir
from esper.distributed.runtime import open_local
from esper.distributed.story import RunStory
from esper.leyline.rollout import ActMode
from tests.distributed.runs import tiny_config, trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from esper.distributed.executor import Ref


class ShufflingExecutor(LocalExecutor):
    """Lets workers answer in a random order, sometimes several at once."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def wait(self, refs: Sequence[Ref], timeout_sec: float | None = None) -> tuple[list[Ref], list[Ref]]:
        shuffled = self._random.sample(list(refs), len(refs))
        count = self._random.randint(1, len(refs))
        return shuffled[:count], shuffled[count:]


class EchoWorker:
    """Plays episodes that are over at once; an outcome is the request itself."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self._requests: tuple[Any, ...] = ()

    def start(self, group: int, requests: tuple[Any, ...]) -> str:
        self.started.append(group)
        self._requests = requests
        return "observation"

    def step(self, decision: str) -> str:
        assert decision == "decision"
        return "observation"

    def outcomes(self) -> list[Any]:
        return list(self._requests)

    def settle(self) -> int:
        return 0

    def play_scripted(self, specs: tuple[Any, ...], requests: tuple[Any, ...]) -> list[Any]:
        return list(zip(specs, requests, strict=True))


class EchoLearner:
    def __init__(self) -> None:
        self.calls: Counter[ActMode] = Counter()

    def act(self, step: str, mode: ActMode) -> str:
        assert step == "observation"
        self.calls[mode] += 1
        return "decision"


def echo_collector(num_workers: int, learner: EchoLearner, *, seed: int = 0, num_stops: int = 1 << 30) -> Collector:
    stops = iter(range(1, 1 << 30))
    workers = [EchoWorker() for _ in range(num_workers)]
    return Collector(ShufflingExecutor(seed), workers, learner, num_steps=4, should_stop=lambda: next(stops) >= num_stops)


@pytest.mark.parametrize(("num_workers", "num_groups"), [(1, 3), (2, 2), (2, 5), (3, 1), (2, 0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_outcomes_come_in_the_order_of_the_requests(num_workers: int, num_groups: int, seed: int) -> None:
    learner = EchoLearner()
    groups: Any = [(f"{group}a", f"{group}b") for group in range(num_groups)]
    played = echo_collector(num_workers, learner, seed=seed).play(groups, ActMode.GREEDY)
    assert played == [request for group in groups for request in group]
    assert learner.calls == Counter({ActMode.GREEDY: 5 * num_groups} if num_groups else {})


def test_scripted_outcomes_come_in_the_order_of_the_requests() -> None:
    groups: Any = [(f"{group}a", f"{group}b") for group in range(5)]
    specs = [(ScriptedSpec("wait"),) * 2] * 5
    played: Any = echo_collector(2, EchoLearner()).play_scripted(specs, groups)
    assert played == [(ScriptedSpec("wait"), request) for group in groups for request in group]


def test_a_request_to_stop_abandons_the_round() -> None:
    groups: Any = [("a",), ("b",)]
    with pytest.raises(InterruptedRound):
        echo_collector(2, EchoLearner(), num_stops=3).play(groups, ActMode.TRAIN)
    with pytest.raises(InterruptedRound):
        echo_collector(1, EchoLearner(), num_stops=1).play_scripted([(ScriptedSpec("wait"),)] * 2, groups)


@pytest.mark.parametrize(("executor", "num_workers"), [(ShufflingExecutor(7), 2), (ShufflingExecutor(8), 1)])
def test_neither_order_of_arrival_nor_number_of_workers_changes_the_run(
    executor: LocalExecutor, num_workers: int, finished: Path, tmp_path: Path
) -> None:
    config = tiny_config()
    facts, paths = examine(config), create_run_dir(tmp_path / "run")
    with open_local(config, facts, paths, keep_rounds=None) as opened:
        runtime = replace(opened, executor=executor, workers=opened.workers[:num_workers])
        collector = Collector(executor, runtime.workers, runtime.learner, num_steps=facts.max_epochs, should_stop=lambda: False)
        checkpoints = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last)
        assert not train(Run(config, facts, runtime, collector, checkpoints, RunStory(config, runtime.emitter)))
    assert trace(paths.root) == trace(finished)
