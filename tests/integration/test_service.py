"""From a training run to a service in a process of its own, which decides as the run's policy would."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.cli.main import main
from esper.distributed.build import make_registries, make_trial
from esper.distributed.checkpoint import load_checkpoint
from esper.distributed.config import RunConfig, read_run_config
from esper.distributed.facts import examine
from esper.kasmina.config import growth_limits
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode, GroupId, StepBatch
from esper.simic.learner import Learner
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.packet_export import host_from_report, packet_from_report
from esper.tamiyo.policy import TamiyoPolicy
from esper.tolaria.trial import EpisodeRequest
from esper.urza.catalogue import Catalogue
from tests.distributed.runs import ROUNDS, TINY

if TYPE_CHECKING:
    from pathlib import Path

    from esper.leyline.packets import SystemStatePacket
    from esper.leyline.reports import TrialReport

SERVE = """
import json, pickle, sys
from pathlib import Path
from esper.tamiyo.service import TamiyoService, action_of

host, places, packets = pickle.loads(Path(sys.argv[2]).read_bytes())
service = TamiyoService(Path(sys.argv[1]))
service.register_host("run", host)
slot_ids = [slot.slot_id for slot in host.slots]
for packet in packets:
    command = service.evaluate_step(packet)
    row = [int(choice) for choice in action_of(command, slot_ids=slot_ids, places=places)]
    print(json.dumps({"row": row, "version": command.policy_version, "value": command.annotations["value_estimate"]}))
print(json.dumps({"outcomes": [report.outcome.name for report in service.ledger.reports], "pending": len(service.ledger.pending)}))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run whose policy grows: WAIT is made unlikely."""
    root = tmp_path_factory.mktemp("service") / "run"
    settings = [*TINY, "policy.op_bias=[0.0,3.0,-1.0,-1.0,2.0,1.0]", "task.max_epochs=8"]
    assert main(["train", "--local", "--run-dir", str(root), *settings]) == 0
    return root


def make_learner(config: RunConfig, root: Path) -> Learner:
    learner = Learner(TamiyoPolicy(config.policy), config.ppo, SeedTree(0))
    checkpoint = load_checkpoint(root / "checkpoints" / f"round-{ROUNDS:05d}")
    learner.load_state(checkpoint.tensors, checkpoint.state["learner"])
    return learner


def observed(builder: GraphBuilder, report: TrialReport) -> StepBatch:
    one = np.zeros(1, dtype=np.float32)
    key = GroupId(0, (0,), 0, report.epoch)
    return StepBatch(key, builder.build([report]), one, one > 0, one == 0, regression=one, panicked=one > 0)


def play_greedily(config: RunConfig, root: Path) -> tuple[list[TrialReport], list[FactoredAction]]:
    """One real episode, decided as training's learner would without noise."""
    facts, catalogue, learner = examine(config), Catalogue.standard(), make_learner(config, root)
    limits = growth_limits(config.growth, catalogue, facts.family)
    builder = GraphBuilder(limits, steps_per_epoch=facts.steps_per_epoch, registries=make_registries(catalogue))
    trial = make_trial(config, catalogue, EpisodeRequest(0, 0, "eval", SeedTree(5)))
    reports, actions = [trial.reset()], list[FactoredAction]()
    while not reports[-1].done:
        decision = learner.act(observed(builder, reports[-1]), ActMode.GREEDY)
        actions.append(FactoredAction.from_row(decision.actions[0].tolist()))
        reports.append(trial.step(actions[-1]))
    return reports, actions


def ask_service(out: Path, packets: list[SystemStatePacket], host: object) -> list[dict[str, object]]:
    """Answers of a service in a fresh process."""
    catalogue = Catalogue.standard()
    places = {name: catalogue.place(name) for name in catalogue.names("cnn")}
    question = out.with_suffix(".pickle")
    question.write_bytes(pickle.dumps((host, places, packets)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SERVE, str(out), str(question)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_a_service_decides_as_training_would(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "tamiyo_gnn_v1"
    assert main(["export", str(root), "--out", str(out)]) == 0
    reports, actions = play_greedily(read_run_config(root / "config.yaml"), root)
    assert any(action.op is LifecycleOp.GERMINATE for action in actions)
    packets = [packet_from_report(report, training_run_id="run") for report in reports]
    *answers, ledger = ask_service(out, packets, host_from_report(reports[0]))
    assert [answer["row"] for answer in answers[:-1]] == [[int(choice) for choice in action] for action in actions]
    assert len({answer["version"] for answer in answers}) == 1
    assert ledger["pending"] == 0
    assert isinstance(ledger["outcomes"], list)
    assert len(ledger["outcomes"]) >= len(actions)
