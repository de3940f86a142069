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
VOLATILE = re.compile(
    r"^(event_id|given_id|timestamp|producer|incarnation|seq|place|wall_sec|env_steps_per_sec|total_events_received|.*_time_ms)$"
)
"""Columns that differ between any two runs."""
SETTINGS = ("cluster.env_cpus=0.75", "cluster.learner_cpus=0.25", "cluster.sink_cpus=0.25", "cluster.restart_delay_sec=0.1")
PATIENCE_SEC = 900.0
NOTICE_SEC = 1.0
"""Between the word that a node will be taken away and its end."""


@dataclass(frozen=True)
class PlannedFault:
    """Who is killed, and when: so long after the first checkpoint of this round or a later one. A driver comes last."""

    part: str
    """`env-0`, `learner`, `sink`, `queue`, `driver`, `node`, or `spot`: a node that its owner takes back, with notice."""
    after_round: int
    """0 is once the first worker works."""
    delay_sec: float
    hangs: bool = False
    """Whether the process is stopped instead of ended, and stays."""

    @property
    def takes_node(self) -> bool:
        """Whether a whole node goes."""
        return self.part in ("node", "spot")


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
    done: list[dict[str, Any]]
    """Faults of this run so far that were carried out, each with the moment `at`, in seconds since 1970, and `back_sec` if Ray brought
    the part back."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `part_lost` and `part_recovered`, in order."""


def play(root: Path, plan: Plan) -> Witness:
    """Play a run in a process of its own, with its faults."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.distributed.faults", str(root), json.dumps(asdict(plan))]
    environment = {**os.environ, "RAY_worker_niceness": "0"}  # else everything else on the machine comes first
    process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SEC, check=False, env=environment)
    wall_sec = time.monotonic() - began
    witness = Witness(process.returncode, wall_sec, process.stdout + process.stderr, carried_out(root))
    if process.returncode == 0:
        witness.faults = faults_told(root)
    return witness


def diary(root: Path) -> Path:
    """Where the faults of a run are written down, beside its folder."""
    return root.with_name(f"{root.name}.faults.jsonl")


def carried_out(root: Path) -> list[dict[str, Any]]:
    """The faults of a run that were carried out, in order."""
    return [json.loads(line) for line in diary(root).read_text().splitlines()] if diary(root).exists() else []


def started_at(root: Path) -> list[float]:
    """When each life of a run began to work, in seconds since 1970."""
    with Store.open(root) as store:
        rows = store.rows(f"SELECT epoch(timestamp) AS began FROM {table_name(TelemetryEventType.TRAINING_STARTED)} ORDER BY began")
    return [row["began"] for row in rows]


def faults_told(root: Path) -> list[dict[str, Any]]:
    """What telemetry says of losses and recoveries."""
    tables = [table_name(t) for t in (TelemetryEventType.PART_LOST, TelemetryEventType.PART_RECOVERED)]
    columns = "timestamp, epoch(timestamp) AS told_at, event_type, part, fault, remedy, lost, recovered_in_sec"
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
    import ray
    from ray._private.state import actors

    if not ray.is_initialized():
        return None
    pattern = re.compile(rf"esper-{re.escape(part)}(-\d+)?")
    found = [actor for actor in actors().values() if actor["State"] == "ALIVE" and pattern.fullmatch(actor["Name"])]
    return found[-1] if found else None


def give_notice(address: str, node_id: str) -> None:
    """Tell Ray, as a cloud's autoscaler does, that a node will soon be taken away: nothing new is started there."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    until_ms = int(1000 * (time.time() + NOTICE_SEC))
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    is_accepted, why = GcsClient(address=address).drain_node(node_id, reason, "the owner takes it back", until_ms)
    assert is_accepted, why


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
            self._carry_out(fault)

    def _await(self, fault: PlannedFault) -> None:
        while not (self._has_saved(fault.after_round) if fault.after_round else living("env-0")):
            time.sleep(0.02)

    def _has_saved(self, num_rounds: int) -> bool:
        names = [path.name.removeprefix("round-") for path in (self._root / "checkpoints").glob("round-*")]
        return any(int(name) >= num_rounds for name in names)

    def _carry_out(self, fault: PlannedFault) -> None:
        part = fault.part
        if part == "driver":
            self._write(fault, time.time())
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.takes_node:
            host = self._find_host("env-0")
            self._write(fault, time.time())
            if part == "spot":
                give_notice(self._cluster.address, host.node_id)
                time.sleep(NOTICE_SEC)
            self._cluster.remove_node(host, allow_graceful=part == "spot")
            return
        actor, began = self._find(part), time.time()
        os.kill(int(actor["Pid"]), signal.SIGSTOP if fault.hangs else signal.SIGKILL)
        is_raised_by_ray = part in ("sink", "queue")
        self._write(fault, began, self._next(part, int(actor["Pid"])) - began if is_raised_by_ray else None)

    def _write(self, fault: PlannedFault, at: float, back_sec: float | None = None) -> None:
        with diary(self._root).open("a") as lines:
            lines.write(json.dumps({**asdict(fault), "at": at, "back_sec": back_sec}) + "\n")

    def _next(self, part: str, process: int) -> float:
        """When another process had taken the part's place, in seconds since 1970."""
        while int(self._find(part)["Pid"]) == process:
            time.sleep(0.02)
        return time.time()

    def _find_host(self, part: str) -> Any:
        """The node of a part; for a while after its loss Ray still believes in the one before."""
        while True:
            where = self._find(part)["Address"]["NodeID"]
            for node in self._cluster.worker_nodes:
                if node.node_id == where:
                    return node
            time.sleep(0.02)

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
        for _ in range(1 + sum(fault.takes_node for fault in plan.faults)):
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
