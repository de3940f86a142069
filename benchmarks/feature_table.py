"""Every feature of an observation, with the share of nodes in which training measured it, over random episodes of the quick run's task.

python -m benchmarks.feature_table
"""

from __future__ import annotations

import numpy as np

from benchmarks.workloads import make_workload
from esper.kasmina.config import growth_limits
from esper.leyline.graph import GraphBatch
from esper.tamiyo import GRAPH_SPEC, GraphBuilder, RandomPolicy, coverage_of
from esper.urza.catalogue import Catalogue

NUM_EPISODES = 4


def observe_random_episodes(num_episodes: int) -> GraphBatch:
    """Graphs of all steps, the first of each episode included."""
    workload = make_workload("image-mix")
    policy, batches = RandomPolicy(), []
    for request in workload.requests(0, num_episodes):
        trial = workload.make_trial(request)
        report = trial.reset()
        family = workload.make_episode(request).host.family
        builder = GraphBuilder(growth_limits(workload.config.growth, Catalogue.standard(), family), steps_per_epoch=1)
        policy.reset(np.random.default_rng(request.env_id))
        batches.append(builder.build([report]))
        while not report.done:
            report = trial.step(policy.decide(report))
            batches.append(builder.build([report]))
    return GraphBatch.concatenate(batches)


def main() -> None:
    coverage = coverage_of(observe_random_episodes(NUM_EPISODES))
    print(GRAPH_SPEC.table(coverage.by_feature))
    print(f"\naverage {coverage.average:.1%}; " + ", ".join(f"{family} {share:.1%}" for family, share in coverage.by_family.items()))


if __name__ == "__main__":
    main()
