"""Looks at a living cluster, or at what a run would start on this machine if there is none."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from esper.distributed.cluster_check import Node, knock, living_nodes
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
    """Join the cluster for a moment; nothing is started on it.

    Args:
        address: As `cluster.address`; None takes `RAY_ADDRESS`, or the cluster that runs on this machine.
        environ: Where `RAY_ADDRESS` is looked for.

    Raises:
        ClusterError: If the cluster that is named cannot be reached.
    """
    named = address or environ.get("RAY_ADDRESS")
    if named:
        knock(named)
    import ray

    try:
        ray.init(address=named or "auto", log_to_driver=False, logging_level=logging.ERROR, namespace="esper-doctor")
    except ConnectionError as error:
        if named:
            raise ClusterError(f"cluster.address={named!r} cannot be reached: {error}") from error
        return _this_machine()
    try:
        return ClusterView(ray.get_runtime_context().gcs_address, tuple(living_nodes(ray.nodes())), dict(ray.available_resources()))
    finally:
        ray.shutdown()


def _this_machine() -> ClusterView:
    import torch

    resources = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    return ClusterView("none is running here; a run would start one", (Node("this machine", resources, {}),), resources)
