"""Processes of a real run are killed; it must end as if nothing had happened.

`ESPER_FAULTS` sets the number of faults of the long test, 5 by default; `ESPER_FAULT_SEED` the moments.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.table import Table

from tests.distributed.faults import Plan, PlannedFault, Witness, play, told
from tests.distributed.runs import ROUNDS, trace, weights

if TYPE_CHECKING:
    from pathlib import Path

LONG_ROUNDS = 6
NUM_FAULTS = int(os.environ.get("ESPER_FAULTS", "5"))
SEED = int(os.environ.get("ESPER_FAULT_SEED", "20261121"))
KINDS = ("env-0", "learner", "sink", "queue", "driver", "node", "env-1")
FAULTS_PER_RUN = 3
"""Of one run; a lost driver or node has a run of its own."""


@pytest.mark.ray
def test_a_killed_worker_changes_nothing(finished: Path, tmp_path: Path) -> None:
    witness = play(tmp_path / "run", Plan((), (PlannedFault("env-0", 1, 0.1),)))
    assert witness.exit_code == 0, witness.output
    assert trace(tmp_path / "run") == trace(finished)
    assert told(tmp_path / "run") == told(finished)
    assert weights(tmp_path / "run", ROUNDS) == weights(finished, ROUNDS)


def plans(num_faults: int, rng: random.Random) -> list[list[Plan]]:
    """Runs with so many faults in all, each a sequence of a beginning and, after a lost driver, its resumptions."""
    settings = (f"rollout.rounds={LONG_ROUNDS}",)
    kinds = [KINDS[i % len(KINDS)] for i in range(num_faults)]
    runs = []
    for kind in [kind for kind in kinds if kind in ("driver", "node")]:
        fault = PlannedFault(kind, rng.randint(1, LONG_ROUNDS - 2), rng.uniform(0.0, 1.5))
        last = [Plan((), is_resumed=True)] if kind == "driver" else []
        runs.append([Plan(settings, (fault,), has_nodes=kind == "node"), *last])
    others = [kind for kind in kinds if kind not in ("driver", "node")]
    for start in range(0, len(others), FAULTS_PER_RUN):
        own = others[start : start + FAULTS_PER_RUN]
        rng.shuffle(own)
        after = sorted(rng.sample(range(1, LONG_ROUNDS - 1), len(own)))
        faults = tuple(PlannedFault(kind, n, rng.uniform(0.0, 1.5)) for kind, n in zip(own, after, strict=True))
        runs.append([Plan(settings, faults)])
    return runs


@pytest.mark.ray
@pytest.mark.slow
def test_faults_at_random_times_change_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert play(whole, Plan((f"rollout.rounds={LONG_ROUNDS}",))).exit_code == 0
    table = Table("run", "fault", "after round", "delay s", "recovered in s", "lost")
    for number, parts in enumerate(plans(NUM_FAULTS, random.Random(SEED))):
        root = tmp_path / f"run-{number}"
        witnesses = [play(root, plan) for plan in parts]
        for plan, witness in zip(parts, witnesses, strict=True):
            add_rows(table, number, plan, witnesses[-1], witness)
        assert witnesses[-1].exit_code == 0, witnesses[-1].output
        assert weights(root, LONG_ROUNDS) == weights(whole, LONG_ROUNDS)
        assert told(root) == told(whole)
    Console(width=120).print(table)


def add_rows(table: Table, number: int, plan: Plan, last: Witness, own: Witness) -> None:
    """One row for each fault of a run, with what telemetry says of it."""
    for fault in plan.faults:
        part = "env-0" if fault.part == "node" else fault.part
        lost = next((row["lost"] for row in last.faults if row["part"] == part and row["lost"]), "nothing")
        seconds = next((row["recovered_in_sec"] for row in last.faults if row["part"] == part and row["recovered_in_sec"]), None)
        if fault.part == "driver":
            lost, seconds = "the round in flight", last.wall_sec
        text = "-" if seconds is None else f"{seconds:.1f}"
        table.add_row(str(number), fault.part, str(fault.after_round), f"{fault.delay_sec:.2f}", text, lost)
