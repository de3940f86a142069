"""`esper doctor --cluster`: the nodes of a cluster, and whether a run would find room on them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from esper.cli.doctor import Finding
from esper.distributed.cluster_check import demands, shortages
from esper.distributed.cluster_view import look_at_cluster
from esper.distributed.config import read_run_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from esper.distributed.cluster_check import Demand, Node
    from esper.distributed.cluster_view import ClusterView
    from esper.distributed.config import RunConfig


def examine_cluster(options: argparse.Namespace) -> list[Finding]:
    """Look at the cluster that a run with these settings would join.

    Raises:
        ConfigError: If a setting is wrong.
        ClusterError: If the cluster cannot be reached.
    """
    config = read_run_config(options.config, options.settings)
    view = look_at_cluster(config.cluster.address, os.environ)
    return describe(view, config)


def describe(view: ClusterView, config: RunConfig) -> list[Finding]:
    """What is there, what the run needs, and what is missing."""
    wanted = demands(config)
    missing = shortages(wanted, view.nodes)
    findings = [Finding("cluster", "address", view.address)]
    findings += [Finding("cluster", f"node {node.name}", _node(node)) for node in view.nodes]
    findings.append(Finding("cluster", "free now", _amounts(view.free)))
    findings += [Finding("run", f"{demand.count} × {demand.role}", _demand(demand)) for demand in wanted]
    findings += [Finding("run", "missing", text, is_good=False) for text in missing]
    if not missing:
        findings.append(Finding("run", "room", "every part finds a node"))
    return findings


def _node(node: Node) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in sorted((node.labels or {}).items()) if key != "ray.io/node-id")
    return f"{_amounts(node.resources)}{f'  labels {labels}' if labels else ''}"


def _demand(demand: Demand) -> str:
    labels = f"  on {dict(demand.labels)}" if demand.labels else ""
    return f"{_amounts(demand.resources)} each{labels}"


def _amounts(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs, memory and the cluster's own kinds, without Ray's bookkeeping."""
    parts = [f"{resources.get(kind, 0.0):g} {kind}" for kind in ("CPU", "GPU")]
    if "memory" in resources:
        parts.append(f"{resources['memory'] / 2**30:.1f} GiB")
    others = [kind for kind in resources if kind not in ("CPU", "GPU", "memory", "object_store_memory") and ":" not in kind]
    return ", ".join([*parts, *(f"{resources[kind]:g} {kind}" for kind in sorted(others))])
