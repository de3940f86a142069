"""Processes of a real run are killed; it must end as if nothing had happened.

`ESPER_FAULTS` sets the number of faults of the long test, 8 by default; 65 are ten of each kind. `ESPER_FAULT_SEED` sets the
moments, and `ESPER_FAULT_TABLE` names a file for the table, which is written fault by fault.
"""

from __future__ import annotations

import os
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.faults import Plan, PlannedFault, Witness, play, started_at, told
from tests.distributed.runs import ROUNDS, trace, weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONG_ROUNDS, ROUNDS_LEFT, LONGEST_DELAY_SEC = 16, 3, 0.8
"""Rounds of a run; those that it still has ahead when its last fault is due; and how late that comes, which a run must not outpace."""
NUM_FAULTS = int(os.environ.get("ESPER_FAULTS", "8"))
SEED = int(os.environ.get("ESPER_FAULT_SEED", "20261121"))
LIVES: Sequence[Sequence[Sequence[str]]] = (
    (("env-0", "sink", "driver"), ("learner", "queue")),
    (("node", "env-1", "node"),),
    (("learner", "queue", "driver"), ("env-0", "sink")),
)
"""Who is killed in a run, life by life; a driver, which ends a life, comes last, and all others in an order of chance."""


@dataclass(frozen=True)
class Verdict:
    """What became of one fault."""

    run: int
    part: str
    after_round: int
    delay_sec: float
    was_carried_out: bool
    recovered_sec: float | None
    lost: str
    is_equal: bool
    """Whether its run ended with the weights and rows of the one without faults."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("fault", [PlannedFault("env-0", 1, 0.1), PlannedFault("spot", 0, 0.1)], ids=["killed", "taken away"])
def test_a_worker_that_is_killed_or_whose_node_is_taken_away_changes_nothing(fault: PlannedFault, finished: Path, tmp_path: Path) -> None:
    witness = play(tmp_path / "run", Plan((), (fault,), has_nodes=fault.takes_node))
    assert witness.exit_code == 0, witness.output
    assert len([row for row in witness.faults if row["event_type"] == "PART_LOST"]) >= 1
    assert trace(tmp_path / "run") == trace(finished)
    assert told(tmp_path / "run") == told(finished)
    assert weights(tmp_path / "run", ROUNDS) == weights(finished, ROUNDS)


def plans(num_faults: int, rng: random.Random) -> list[list[Plan]]:
    """Runs with so many faults in all, each a life and, after a lost driver, another."""
    runs: list[list[Plan]] = []
    while num_faults:
        run: list[Plan] = []
        for parts in LIVES[len(runs) % len(LIVES)]:
            own, num_faults = parts[:num_faults], max(num_faults - len(parts), 0)
            ahead = len(run) * LONG_ROUNDS // 2
            run.append(Plan((f"rollout.rounds={LONG_ROUNDS}",), faults(own, ahead, rng), bool(run), "node" in parts))
            if "driver" not in own:
                break
        runs.append(run)
    return runs


def faults(parts: Sequence[str], ahead: int, rng: random.Random) -> tuple[PlannedFault, ...]:
    """These parts after rounds of chance, of which none is among the first so many."""
    others = [part for part in parts if part != "driver"]
    rng.shuffle(others)
    after = sorted(rng.sample(range(ahead + 1, ahead + 1 + LONG_ROUNDS // 2 - ROUNDS_LEFT), len(parts)))
    ordered = [*others, *(part for part in parts if part == "driver")]
    return tuple(PlannedFault(part, n, rng.uniform(0.0, LONGEST_DELAY_SEC)) for part, n in zip(ordered, after, strict=True))


@pytest.mark.ray
@pytest.mark.slow
def test_faults_at_random_times_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    assert play(whole, Plan((f"rollout.rounds={LONG_ROUNDS}",))).exit_code == 0
    expected = weights(whole, LONG_ROUNDS), told(whole)
    verdicts: list[Verdict] = []
    failures: list[str] = []
    for number, parts in enumerate(plans(NUM_FAULTS, random.Random(SEED))):
        root = tmp_path / f"run-{number}"
        witnesses = [play(root, plan) for plan in parts]
        is_equal = witnesses[-1].exit_code == 0 and (weights(root, LONG_ROUNDS), told(root)) == expected
        verdicts += judge(number, root, parts, witnesses[-1], is_equal=is_equal)
        if not is_equal:
            failures.append(f"run {number}: {parts}: {witnesses[-1].output[-2000:]}")
        write(verdicts)
    with capsys.disabled():
        print("\n" + summary(verdicts))
    assert not failures, "\n".join(failures)
    assert all(verdict.was_carried_out for verdict in verdicts)


def judge(number: int, root: Path, lives: Sequence[Plan], last: Witness, *, is_equal: bool) -> Iterable[Verdict]:
    """What became of each fault of a run, by what telemetry says of it and by the clock."""
    done = {(one["part"], one["after_round"]): one for one in last.done}
    for fault in (fault for plan in lives for fault in plan.faults):
        own = done.get((fault.part, fault.after_round))
        seconds, lost = (None, "") if own is None else outcome(root, own, last.faults)
        yield Verdict(number, fault.part, fault.after_round, fault.delay_sec, own is not None, seconds, lost, is_equal)


def outcome(root: Path, own: dict[str, Any], told_of: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """After how many seconds the part was back, None if the run was over before; and what had to be done again."""
    part = "env-0" if own["part"] == "node" else own["part"]
    if part == "driver":
        return next((began - own["at"] for began in started_at(root) if began > own["at"]), None), "the round in flight"
    if part in ("sink", "queue"):
        return own["back_sec"], "nothing"
    rows = [row for row in told_of if row["part"] == part and row["told_at"] > own["at"]]
    lost = next((row["lost"] for row in rows if row["lost"]), "nothing")
    return next((row["recovered_in_sec"] for row in rows if row["recovered_in_sec"] is not None), None), lost


def write(verdicts: Sequence[Verdict]) -> None:
    """Keep the table so far, where the environment says so."""
    path = os.environ.get("ESPER_FAULT_TABLE")
    if path:
        Path(path).write_text(f"{summary(verdicts)}\n\n{details(verdicts)}\n")


def summary(verdicts: Sequence[Verdict]) -> str:
    """One line per kind of fault."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.part].append(verdict)
    rows = []
    for kind, own in kinds.items():
        seconds = [verdict.recovered_sec for verdict in own if verdict.recovered_sec is not None]
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})" if seconds else "-"
        lost = {_kind_of_work(verdict.lost) for verdict in own}
        carried_out, equal = sum(verdict.was_carried_out for verdict in own), sum(verdict.is_equal for verdict in own)
        rows.append((kind, carried_out, spread, ", ".join(sorted(lost)), f"{equal} of {len(own)}"))
    head = ("killed", "times", "recovered in s: median (range)", "lost and played again", "ended equal")
    return _table(head, rows)


def details(verdicts: Sequence[Verdict]) -> str:
    """One line per fault."""
    head = ("run", "killed", "after round", "and s", "recovered in s", "lost", "ended equal")
    rows = [
        (
            verdict.run,
            verdict.part if verdict.was_carried_out else f"{verdict.part} (the run was over before)",
            verdict.after_round,
            f"{verdict.delay_sec:.2f}",
            "-" if verdict.recovered_sec is None else f"{verdict.recovered_sec:.1f}",
            verdict.lost,
            "yes" if verdict.is_equal else "no",
        )
        for verdict in verdicts
    ]
    return _table(head, rows)


def _kind_of_work(lost: str) -> str:
    for beginning, kind in {"group": "a group's episodes", "rounds": "the round in flight"}.items():
        if lost.startswith(beginning):
            return kind
    return lost


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
