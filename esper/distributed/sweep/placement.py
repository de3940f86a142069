"""What a trial asks of the cluster, from the same settings that a run's parts are started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.distributed.cluster_check import Demand, demands
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from esper.distributed.config import ClusterConfig, RunConfig

Bundle = dict[str, float]
PREFIX = "run."
"""Where a sweep file has the settings of its runs."""
IN_ORDER = ("sink", "learner", "env")
"""Roles in the order of their bundles."""
LEAST_CPUS = 0.001
"""Share of a part that takes none: a bundle cannot be empty."""


def trial_demands(config: RunConfig, *, local: bool) -> list[Demand]:
    """What one trial asks for.

    In one process the parts take turns, so that the largest share suffices; its node has the labels that any of them wants.
    Otherwise the trial itself only passes references on and takes nothing, nor does the telemetry queue.

    Raises:
        ConfigError: If no node can have all the labels.
    """
    if not local:
        return sorted(demands(config, PREFIX), key=lambda demand: IN_ORDER.index(demand.role))
    shares = config.cluster
    cpus, gpus = max(shares.env_cpus, shares.learner_cpus), max(shares.env_gpus, shares.learner_gpus)
    role = "env" if (shares.env_gpus, shares.env_cpus) == (gpus, cpus) else "learner"
    return [Demand(role, 1, cpus, gpus, _all_labels(shares), PREFIX)]


def trial_bundles(config: RunConfig, *, local: bool) -> list[Bundle]:
    """Bundles of a trial's placement group; the first is the trial's own."""
    bundles = [_bundle(demand) for demand in trial_demands(config, local=local) for _ in range(demand.count)]
    return bundles if local else [{}, *bundles]


def trial_labels(config: RunConfig, *, local: bool) -> list[dict[str, str]] | None:
    """Labels that the node of every bundle must have, without the trial's own if that is empty; None if none is wanted."""
    labels = [dict(demand.labels) for demand in trial_demands(config, local=local) for _ in range(demand.count)]
    return labels if any(labels) else None


def _bundle(demand: Demand) -> Bundle:
    cpus = demand.cpus or LEAST_CPUS
    return {"CPU": cpus, "GPU": demand.gpus} if demand.gpus else {"CPU": cpus}


def _all_labels(shares: ClusterConfig) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for role in IN_ORDER:
        for key, value in getattr(shares, f"{role}_labels").items():
            if wanted.setdefault(key, value) != value:
                raise ConfigError(
                    f"{PREFIX}cluster.{role}_labels={{{key}: {value}}}, and {key}: {wanted[key]} for another part: a trial in one "
                    "process is on one node; leave one out, or set local=false"
                )
    return wanted
