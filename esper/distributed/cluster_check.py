"""Does a run fit onto a cluster? Demands by role against nodes: a pure comparison that names what is missing."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from esper.distributed.executor import ClusterError

if TYPE_CHECKING:
    from esper.distributed.config import RunConfig

ANSWER_SEC = 5.0
"""Longest wait for a cluster's first sign of life."""
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Node:
    """A living machine of the cluster."""

    name: str
    resources: Mapping[str, float]
    """All it has, whoever uses it now."""
    labels: Mapping[str, str] | None
    """None where nobody knows them yet: Ray finds them when it starts."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Actors of one role."""

    role: str
    count: int
    cpus: float
    gpus: float
    labels: Mapping[str, str]
    prefix: str = ""
    """What stands before the settings that say so, e.g. `run.` in a sweep."""

    @property
    def resources(self) -> dict[str, float]:
        """What each of them takes."""
        return {"CPU": self.cpus, "GPU": self.gpus}


def demands(config: RunConfig, prefix: str = "") -> list[Demand]:
    """What a run asks for. The telemetry queue and the driver take nothing."""
    shares = config.cluster
    return [
        Demand("learner", 1, shares.learner_cpus, shares.learner_gpus, shares.learner_labels, prefix),
        Demand("env", config.rollout.num_actors, shares.env_cpus, shares.env_gpus, shares.env_labels, prefix),
        Demand("sink", 1, shares.sink_cpus, 0.0, shares.sink_labels, prefix),
    ]


def is_inside_job(environ: Mapping[str, str]) -> bool:
    """Whether this is a Ray job, whose cluster is joined whatever the settings say."""
    return _IN_A_JOB in environ


def starts_cluster(address: str | None, environ: Mapping[str, str]) -> bool:
    """Whether a run with this `cluster.address` starts a cluster of its own on this machine; otherwise it joins one."""
    return address is None and not is_inside_job(environ)


def this_machine() -> Node:
    """The one node of a cluster that a run starts here."""
    import torch

    return Node("this machine", {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}, None)


def shortages(wanted: Sequence[Demand], nodes: Sequence[Node]) -> list[str]:
    """What keeps the actors from being placed; empty if all of them fit.

    First fit, the largest first: no packing is found that does not exist, and one that exists is missed only if shares of
    very different sizes must be interleaved.
    """
    free = [dict(node.resources) for node in nodes]
    missing = []
    for demand in sorted(wanted, key=lambda one: (one.gpus, one.cpus), reverse=True):
        allowed = [i for i, node in enumerate(nodes) if node.labels is None or has_labels(node.labels, demand.labels)]
        num_placed = sum(_place(demand.resources, [free[i] for i in allowed]) for _ in range(demand.count))
        if num_placed < demand.count:
            missing.append(_explain(demand, num_placed, [nodes[i] for i in allowed], len(nodes)))
    return missing


def require_placement(what: str, wanted: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Refuse to wait for actors that no node will ever have room for.

    Args:
        what: Who asks, e.g. `the run`.
        wanted: What for.
        nodes: Of the cluster.

    Raises:
        ClusterError: If there are some, with the settings to change.
    """
    missing = shortages(wanted, nodes)
    if missing:
        total: Counter[str] = Counter()
        for demand in wanted:
            total.update({kind: amount * demand.count for kind, amount in demand.resources.items() if amount})
        asked = " and ".join(f"{amount:g} {kind}" for kind, amount in total.items())
        raise ClusterError(f"{what} asks for {asked} in all and does not fit onto the cluster: {'; '.join(missing)}")


def has_labels(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node meets a label selector: `value`, `!value`, `in(a,b)` or `!in(a,b)` for each key."""
    return all(_meets(found.get(key), condition) for key, condition in wanted.items())


def knock(address: str) -> None:
    """Ask for a sign of life at `host:port` or `ray://host:port`, which Ray itself would do for minutes.

    Raises:
        ClusterError: If nobody answers within a few seconds.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        return  # `auto` and the like are Ray's to resolve
    try:
        socket.create_connection((host, port), timeout=ANSWER_SEC).close()
    except OSError as error:
        raise ClusterError(f"cluster.address={address!r} cannot be reached: {error.strerror or error}") from error


def living_nodes(described: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The living ones among nodes as `ray.nodes()` describes them."""
    return [
        Node(str(node["NodeManagerAddress"]), dict(node["Resources"]), dict(node.get("Labels") or {}))
        for node in described
        if node["Alive"]
    ]


def _place(resources: Mapping[str, float], free: Sequence[dict[str, float]]) -> bool:
    for room in free:
        if _fits(resources, room):
            for kind, amount in resources.items():
                room[kind] = room.get(kind, 0.0) - amount
            return True
    return False


def _fits(resources: Mapping[str, float], room: Mapping[str, float]) -> bool:
    return all(amount <= room.get(kind, 0.0) + _SLACK for kind, amount in resources.items() if amount)


def _explain(demand: Demand, num_placed: int, allowed: Sequence[Node], num_nodes: int) -> str:
    settings = f"{demand.prefix}cluster.{demand.role}_"
    who = f"no node for the {demand.role}"
    if demand.count > 1:
        who = f"{demand.count - num_placed} of {demand.count} {demand.role} actors find no node"
    if not allowed:
        return f"{who}: none of {num_nodes} has the labels {dict(demand.labels)} ({settings}labels)"
    asked = {kind: amount for kind, amount in demand.resources.items() if amount}
    for kind, amount in asked.items():
        largest = max(node.resources.get(kind, 0.0) for node in allowed)
        if amount > largest + _SLACK:
            return f"{who}: each asks for {amount:g} {kind} ({settings}{kind.lower()}s), the largest node has {largest:g}"
    total = ", ".join(f"{sum(node.resources.get(kind, 0.0) for node in allowed):g} {kind}" for kind in asked)
    each = " and ".join(f"{amount:g} {kind}" for kind, amount in asked.items())
    return (
        f"{who}: each asks for {each}, and the others leave no room on {len(allowed)} possible with {total} in all; "
        f"lower {settings}cpus or {demand.prefix}rollout.num_envs, or raise {demand.prefix}rollout.envs_per_actor"
    )


def _meets(value: str | None, condition: str) -> bool:
    if condition.startswith("!"):
        return not _meets(value, condition[1:])
    one_of = re.fullmatch(r"in\((.*)\)", condition)
    accepted = [item.strip() for item in one_of[1].split(",")] if one_of else [condition]
    return value in accepted
