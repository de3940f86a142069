"""The cluster that a run would be on: one that lives, or what it would start on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from esper.distributed.cluster_check import Node, is_inside_job, knock, living_nodes, starts_cluster, this_machine
from esper.distributed.executor import ClusterError


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster at one moment."""

    address: str
    """Where it is, in words."""
    nodes: tuple[Node, ...]
    free: Mapping[str, float]
    """What nobody uses now, in all."""


def look_at_cluster(address: str | None, environ: Mapping[str, str]) -> ClusterView:
    """Look at the cluster that a run would be on, and join it for a moment if it exists; nothing is started.

    Args:
        address: As `cluster.address`.
        environ: Of the process that would run.

    Raises:
        ClusterError: If the cluster that is named cannot be reached.
    """
    if starts_cluster(address, environ):
        node = this_machine()
        return ClusterView(name_choice(environ), (node,), node.resources)
    if is_inside_job(environ):
        address = None  # the job's own
    elif address is not None:
        knock(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="esper-doctor")
    except ConnectionError as error:
        raise ClusterError(f"cluster.address={address!r} cannot be reached: {error}") from error
    try:
        return ClusterView(ray.get_runtime_context().gcs_address, tuple(living_nodes(ray.nodes())), dict(ray.available_resources()))
    finally:
        ray.shutdown()


def name_choice(environ: Mapping[str, str]) -> str:
    """What a run does that names no cluster, in words."""
    if is_inside_job(environ):
        return "a run joins that of this job"
    named = environ.get("RAY_ADDRESS")
    aside = f" (RAY_ADDRESS={named} is not looked at)" if named else ""
    return f"a run starts its own here, unless cluster.address names one{aside}"
