"""Runs in a process of their own, in which parts are killed at planned moments, and what such a run must leave behind.

As a program: `python -m tests.distributed.faults ROOT PLAN`, where PLAN is JSON: settings, whether to resume, whether to use
several nodes, and the faults.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from esper.karn.store import Store
from esper.leyline.telemetry import TelemetryEventType
from esper.leyline.telemetry.schema import table_name

ABOUT_PROCESSES = {
    "TRAINING_STARTED",
    "CHECKPOINT_LOADED",
    "RUN_FINISHED",
    "PART_LOST",
    "PART_RECOVERED",
    "HEARTBEAT",
    "INFRASTRUCTURE_SNAPSHOT",
    "MEMORY_WARNING",
}
"""Events about processes, of which a run with faults has others; all others are about the run."""
VOLATILE = re.compile(r"^(event_id|timestamp|producer|incarnation|seq|wall_sec|env_steps_per_sec|total_events_received|.*_time_ms)$")
"""Columns that differ between any two runs."""
SETTINGS = ("cluster.env_cpus=0.75", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25", "cluster.restart_delay_sec=0.1")
PATIENCE_SEC = 420.0


@dataclass(frozen=True)
class PlannedFault:
    """Who is killed, and when."""

    part: str
    """`env-0`, `learner`, `sink`, `queue`, `driver`, or `node`."""
    after_round: int
    """This checkpoint exists; 0 once the first worker works."""
    delay_sec: float


@dataclass(frozen=True)
class Plan:
    """One run of a program."""

    settings: tuple[str, ...]
    faults: tuple[PlannedFault, ...] = ()
    is_resumed: bool = False
    has_nodes: bool = False
    """Whether environments live on nodes of their own, beside the driver's."""


@dataclass
class Witness:
    """What a run did in the end."""

    exit_code: int
    wall_sec: float
    output: str
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `part_lost` and `part_recovered`, in order."""


def play(root: Path, plan: Plan) -> Witness:
    """Play a run in a process of its own, with its faults."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.distributed.faults", str(root), json.dumps(asdict(plan))]
    process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SEC, check=False)
    wall_sec = time.monotonic() - began
    witness = Witness(process.returncode, wall_sec, process.stdout + process.stderr)
    if process.returncode == 0:
        witness.faults = faults_told(root)
    return witness


def faults_told(root: Path) -> list[dict[str, Any]]:
    """What telemetry says of losses and recoveries."""
    tables = [table_name(t) for t in (TelemetryEventType.PART_LOST, TelemetryEventType.PART_RECOVERED)]
    columns = "timestamp, event_type, part, fault, remedy, lost, recovered_in_sec"
    with Store.open(root) as store:
        return store.rows(" UNION ALL ".join(f"SELECT {columns} FROM {table}" for table in tables) + " ORDER BY timestamp")


def told(root: Path) -> dict[str, list[str]]:
    """Every row about the run itself, table by table, without what differs between any two runs."""
    found = {}
    with Store.open(root) as store:
        for event_type in TelemetryEventType:
            if event_type.name in ABOUT_PROCESSES:
                continue
            rows = store.rows(f"SELECT * FROM {table_name(event_type)}")
            found[event_type.name] = sorted(repr([(k, v) for k, v in row.items() if not VOLATILE.match(k)]) for row in rows)
    return found


def living(part: str) -> dict[str, Any] | None:
    """What Ray knows of the living actor that fills a part; asked in a process that has joined the cluster."""
    from ray._private.state import actors

    pattern = re.compile(rf"esper-{re.escape(part)}(-\d+)?")
    found = [actor for actor in actors().values() if actor["State"] == "ALIVE" and pattern.fullmatch(actor["Name"])]
    return found[-1] if found else None


class _Saboteur(threading.Thread):
    """Carries out a plan while the run goes on in the main thread."""

    def __init__(self, root: Path, plan: Plan, cluster: Any) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._plan = plan
        self._cluster = cluster

    def run(self) -> None:
        for fault in self._plan.faults:
            self._await(fault)
            time.sleep(fault.delay_sec)
            self._carry_out(fault.part)

    def _await(self, fault: PlannedFault) -> None:
        import ray

        while not (self._root / "checkpoints" / f"round-{fault.after_round:05d}").exists():
            if fault.after_round == 0 and ray.is_initialized() and living("env-0"):
                return
            time.sleep(0.02)

    def _carry_out(self, part: str) -> None:
        if part == "driver":
            os.kill(os.getpid(), signal.SIGKILL)
        actor = self._find("env-0" if part == "node" else part)
        if part == "node":
            host = [node for node in self._cluster.worker_nodes if node.node_id == actor["Address"]["NodeID"]]
            self._cluster.remove_node(host[0], allow_graceful=False)
        else:
            os.kill(int(actor["Pid"]), signal.SIGKILL)

    def _find(self, part: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SEC
        while (actor := living(part)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert actor is not None, f"{part} did not come back"
        return actor


def _main(root: Path, plan: Plan) -> int:
    from esper.distributed.session import resume_run, train_run
    from tests.distributed.runs import tiny_config

    cluster = None
    settings = [*SETTINGS, *plan.settings]
    if plan.has_nodes:
        from ray.cluster_utils import Cluster

        # the first node has room for the learner and the sink, each of the others for both environment actors
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        settings += [f"cluster.address={cluster.address}", "cluster.env_cpus=1"]
    try:
        _Saboteur(root, plan, cluster).start()
        was_interrupted = resume_run(root, local=False) if plan.is_resumed else train_run(tiny_config(*settings), root, local=False)
    finally:
        if cluster is not None:
            cluster.shutdown()
    return int(was_interrupted)


def _read(text: str) -> Plan:
    values = json.loads(text)
    values["settings"] = tuple(values["settings"])
    return Plan(**{**values, "faults": tuple(PlannedFault(**fault) for fault in values["faults"])})


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), _read(sys.argv[2])))
