from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from esper.leyline.telemetry.event import TelemetryEvent, TelemetryEventType
from esper.leyline.telemetry.simic import RewardComputedPayload
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb import WandbSink
from esper.nissa.sinks.wandb_label import RunLabel
from esper.nissa.sinks.wandb_progress import FILE, Progress
from esper.nissa.sinks.wandb_rounds import LATE_SEC
from tests.fakes.telemetry import START, heartbeat
from tests.fakes.wandb_run import FakeRun, batches_of, fake_wandb, rounds_of_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    return fake_wandb(monkeypatch)


def log(folder: Path, events: Iterable[TelemetryEvent], *, rows: int = 1, at_once: int = 1) -> None:
    sink = WandbSink("esper-test", "offline", folder=folder, label=RunLabel("one"))
    batches = batches_of(events, rows)
    for first in range(0, len(batches), at_once):
        sink.write(batches[first : first + at_once])
    sink.close()


def steps_of(run: FakeRun, key: str) -> list[float]:
    return [values["env_steps"] for values in run.points if key in values]


def without_start(points: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Every life tells of its start and of its heartbeats; that is left out here."""
    kept = [{key: value for key, value in values.items() if not key.startswith("infra/num_")} for values in points]
    return [values for values in kept if len(values) > 1]


def test_every_epoch_is_a_point_over_all_envs(tmp_path: Path, runs: list[FakeRun]) -> None:
    log(tmp_path, chain(*rounds_of_run(2, n_envs=3)))
    assert steps_of(runs[0], "tolaria/val_accuracy") == [3, 6, 9, 12]
    assert steps_of(runs[0], "simic/step/total_reward") == [3, 6, 9, 12]
    assert steps_of(runs[0], "tamiyo/policy_loss") == [6, 6, 12, 12]
    assert [values["kasmina/num_seed_germinated"] for values in runs[0].points if "kasmina/num_seed_germinated" in values] == [3.0, 3.0]


@pytest.mark.parametrize(("rows", "at_once"), [(3, 1), (1, 7), (20, 1), (100, 100)])
def test_how_events_were_gathered_makes_no_difference(tmp_path: Path, runs: list[FakeRun], rows: int, at_once: int) -> None:
    told = rounds_of_run(3)
    log(tmp_path / "singly", chain(*told))
    log(tmp_path / "gathered", chain(*told), rows=rows, at_once=at_once)
    assert runs[1].points == runs[0].points


def test_nor_does_the_order_in_which_envs_were_heard(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(3, n_envs=4)
    log(tmp_path / "ordered", chain(*told))
    for events in told:
        body = events[:-1]  # the driver waits for the environments before it ends the round
        random.Random(1).shuffle(body)
        events[:-1] = body
    log(tmp_path / "shuffled", chain(*told))
    assert runs[1].points == runs[0].points


def test_what_a_lost_worker_had_told_of_an_episode_counts_once(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(1)
    log(tmp_path / "smooth", chain(*told))
    epochs = [one for one in told[0] if one.event_type.name in ("TOLARIA_EPOCH_COMPLETED", "REWARD_COMPUTED")]
    log(tmp_path / "lost", [told[0][0], *epochs[:3], *told[0][1:]])
    assert runs[1].points == runs[0].points


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_life_that_has_only_later_rounds_goes_on_where_the_first_had_got_to(tmp_path: Path, runs: list[FakeRun], split: int) -> None:
    told = rounds_of_run(4)
    log(tmp_path / "whole", chain(*told))
    log(tmp_path / "lives", chain(*told[:split]))
    log(tmp_path / "lives", chain(*told[split:]))
    whole, first, second = runs
    assert without_start([*first.points, *second.points]) == without_start(whole.points)
    assert steps_of(whole, "tolaria/val_accuracy") == [2, 4, 6, 8, 10, 12, 14, 16]
    for title in ("Trust region", "Gradient health", "Entropy by head"):
        assert second.chart(title) == whole.chart(title)
    assert first.settings["id"] == second.settings["id"]


def test_a_round_that_was_broken_off_is_told_when_it_is_played_again(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(3)
    log(tmp_path / "whole", chain(*told))
    log(tmp_path / "lives", [*told[0], *told[1], *told[2][:5]])
    log(tmp_path / "lives", told[2])
    assert steps_of(runs[1], "tolaria/val_accuracy") == [2, 4, 6, 8]
    assert without_start([*runs[1].points, *runs[2].points]) == without_start(runs[0].points)


def test_rounds_that_are_played_again_are_not_told_again(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(4)
    log(tmp_path, chain(*told[:3]))
    log(tmp_path, chain(*told[1:]))
    assert steps_of(runs[1], "tolaria/val_accuracy") == [14, 16]
    log(tmp_path, chain(*told))
    assert without_start(runs[2].points) == []


def test_a_learner_that_goes_back_within_a_life_makes_no_round_twice(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(3)
    log(tmp_path, chain(told[0], told[1], told[2][:4], told[1], told[2]))
    assert steps_of(runs[0], "tolaria/val_accuracy") == [2, 4, 6, 8, 10, 12]
    assert steps_of(runs[0], "tamiyo/policy_loss") == [4, 4, 8, 8, 12, 12]


def test_a_round_waits_for_latecomers_and_no_longer(tmp_path: Path, runs: list[FakeRun]) -> None:
    sink = WandbSink("esper-test", "offline", folder=tmp_path, label=RunLabel("one"))
    told = rounds_of_run(1)[0]
    late = [one for one in told if one.event_type is TelemetryEventType.TAMIYO_POLICY_UPDATE][-1]
    ended_sec = (told[-1].timestamp - START).total_seconds()
    sink.write(batches_of(one for one in told if one is not late))
    sink.write(batches_of([heartbeat(ended_sec + LATE_SEC - 1.0), late]))
    assert runs[0].points == []
    sink.write(batches_of([heartbeat(ended_sec + LATE_SEC)]))
    assert steps_of(runs[0], "tolaria/val_accuracy") == [2, 4]
    assert [values["tamiyo/ppo_update_idx"] for values in runs[0].points if "tamiyo/ppo_update_idx" in values] == [1.0, 2.0]
    sink.close()


def test_rewards_that_do_not_say_their_epoch_are_one_mean_at_the_end(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = [
        replace(one, data=replace(one.data, inner_epoch=None)) if isinstance(one.data, RewardComputedPayload) else one
        for one in rounds_of_run(1)[0]
    ]
    log(tmp_path, told)
    assert steps_of(runs[0], "tolaria/val_accuracy") == [2, 4]
    assert steps_of(runs[0], "simic/step/total_reward") == [4]


def test_without_the_ends_of_rounds_the_updates_say_how_far_they_are(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = [one for one in chain(*rounds_of_run(3)) if one.event_type is not TelemetryEventType.TOLARIA_BATCH_COMPLETED]
    log(tmp_path, told)
    assert steps_of(runs[0], "tolaria/val_accuracy") == [2, 4, 6, 8, 10, 12]


def test_evaluation_is_no_part_of_a_round(tmp_path: Path, runs: list[FakeRun]) -> None:
    told = rounds_of_run(2)
    evaluated = [replace(one, group_id="eval/learned/0") for one in told[1] if one.event_type is TelemetryEventType.TOLARIA_EPOCH_COMPLETED]
    log(tmp_path / "with", chain(*told, evaluated))
    log(tmp_path / "without", chain(*told))
    assert runs[0].points == runs[1].points


def test_a_line_that_was_torn_is_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    progress = Progress(tmp_path, {"tamiyo/kl_divergence"})
    progress.note(1, 4, [(4, {"tamiyo/kl_divergence": 0.25, "tamiyo/entropy": 1.0})])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"round": 2, "env')
    again = Progress(tmp_path, {"tamiyo/kl_divergence"})
    assert (again.last_round, again.env_steps) == (1, 4)
    assert again.history == {"tamiyo/kl_divergence": [(4, 0.25)]}
    again.note(2, 8, [])
    assert [json.loads(line)["round"] for line in (tmp_path / FILE).read_text().splitlines()] == [1, 2]
    assert Progress(tmp_path, ()).env_steps == 8


@pytest.mark.usefixtures("runs")
def test_a_disk_that_refuses_is_said_in_the_sinks_words(tmp_path: Path) -> None:
    sink = WandbSink("esper-test", "offline", folder=tmp_path, label=RunLabel("one"))
    (tmp_path / FILE).mkdir()
    with pytest.raises(SinkUnavailableError, match="Weights & Biases"):
        sink.write(batches_of(chain(*rounds_of_run(3))))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_only_what_was_logged_before_is_continued(tmp_path: Path, runs: list[FakeRun], mode: str) -> None:
    for _ in range(2):
        sink = WandbSink("esper-test", mode, folder=tmp_path, label=RunLabel("one"))  # type: ignore[arg-type]
        sink.write(batches_of(rounds_of_run(1)[0]))
        sink.close()
    assert [run.settings["resume"] for run in runs] == [None, "allow" if mode == "online" else None]
