"""What a trial asks of the cluster, from the same settings that a run's parts are started with."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from esper.distributed.executor import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.distributed.config import RunConfig

Bundle = dict[str, float]


def trial_bundles(config: RunConfig, *, local: bool) -> list[Bundle]:
    """Bundles of a trial's placement group; the first is the trial's own.

    In one process the parts take turns, so that the largest share suffices. Otherwise the trial itself only passes references
    on and takes nothing; sink, learner and every environment actor have a bundle each. The telemetry queue takes no share.
    """
    shares, num_actors = config.cluster, config.rollout.num_actors
    if local:
        return [_bundle(max(shares.env_cpus, shares.learner_cpus), max(shares.env_gpus, shares.learner_gpus))]
    envs = [_bundle(shares.env_cpus, shares.env_gpus) for _ in range(num_actors)]
    return [{}, _bundle(shares.sink_cpus, 0.0), _bundle(shares.learner_cpus, shares.learner_gpus), *envs]


def require_room(bundles: Sequence[Bundle], available: Mapping[str, float]) -> None:
    """Compare what one trial asks for with what the cluster has.

    Raises:
        ClusterError: If it asks for more, saying which settings to change.
    """
    wanted: Counter[str] = Counter()
    for bundle in bundles:
        wanted.update(bundle)
    for kind, amount in wanted.items():
        found = available.get(kind, 0.0)
        if amount > found + 1e-9:
            raise ClusterError(
                f"a trial asks for {amount:g} {kind}, the cluster has {found:g}; lower run.cluster.env_{kind.lower()}s or "
                f"run.cluster.learner_{kind.lower()}s, or play a trial in one process with local=true"
            )


def _bundle(cpus: float, gpus: float) -> Bundle:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
