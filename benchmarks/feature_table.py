"""Every feature of an observation, with the share of nodes in which training measured it, over random episodes of the quick run's task.

python -m benchmarks.feature_table            # print the table
python -m benchmarks.feature_table --write    # put it beside the code, for readers
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.workloads import make_workload
from esper.kasmina.config import growth_limits
from esper.leyline.graph import GraphBatch
from esper.tamiyo import GRAPH_SPEC, GraphBuilder, RandomPolicy, coverage_of
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tamiyo import Coverage

NUM_EPISODES = 4
PAGE = Path(__file__).parents[1] / "esper" / "tamiyo" / "FEATURES.md"
HEAD = f"""# What the policy sees

Written by `python -m benchmarks.feature_table --write`: the layout of observations, and in the last column the share of nodes or edges
in which a feature was measured, over {NUM_EPISODES} random episodes of `image-mix`. What was not measured is 0 in its channels and in
its mask. `mask` 0: the feature has none, because 0 stands for unknown. Features that are no part of training are measured by services
only."""


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


def render(coverage: Coverage) -> str:
    """The table as a Markdown page."""
    families = ", ".join(f"{family} {share:.1%}" for family, share in coverage.by_family.items())
    return f"{HEAD}\n\n{GRAPH_SPEC.table(coverage.by_feature)}\n\nAverage {coverage.average:.1%}; {families}.\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, observe, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} in {PAGE.parent}")
    page = render(coverage_of(observe_random_episodes(NUM_EPISODES)))
    if parser.parse_args(argv).write:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
