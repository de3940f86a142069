from __future__ import annotations

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from esper.distributed.actors import Place, close_session, open_session, start_part
from esper.distributed.cluster_check import Node, require_placement
from esper.distributed.config import ClusterConfig
from esper.distributed.executor import ClusterError
from esper.distributed.sweep.placement import trial_bundles, trial_demands, trial_labels
from esper.leyline.load import ConfigError
from tests.distributed.runs import tiny_config


def test_a_trial_in_one_process_takes_the_largest_share() -> None:
    assert trial_bundles(tiny_config("cluster.env_cpus=0.75", "cluster.learner_cpus=0.25"), local=True) == [{"CPU": 0.75}]
    shares = ("cluster.env_cpus=0.5", "cluster.learner_cpus=2", "cluster.env_gpus=0.25", "cluster.learner_gpus=0.5")
    assert trial_bundles(tiny_config(*shares), local=True) == [{"CPU": 2.0, "GPU": 0.5}]


def test_a_trial_with_actors_has_a_bundle_for_each_and_none_for_itself() -> None:
    config = tiny_config("cluster.env_cpus=1", "cluster.env_gpus=0.5", "cluster.learner_gpus=1")
    bundles = trial_bundles(config, local=False)
    assert bundles == [{}, {"CPU": 0.25}, {"CPU": 0.25, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 1.0, "GPU": 0.5}]
    assert len(bundles) == 3 + config.rollout.num_actors


def test_too_small_a_cluster_is_refused_by_name() -> None:
    wanted = trial_demands(tiny_config("cluster.env_gpus=0.5"), local=False)

    def require(cpus: float, gpus: float) -> None:
        require_placement("a trial", wanted, [Node("here", {"CPU": cpus, "GPU": gpus}, {})])

    require(2.0, 1.0)
    with pytest.raises(ClusterError, match=r"a trial asks for 2 CPU and 1 GPU in all .*\(run\.cluster\.env_gpus\), the largest node has 0"):
        require(2.0, 0.0)
    with pytest.raises(ClusterError, match=r"asks for 2 CPU .* possible with 1 CPU.* in all;"):
        require(1.0, 1.0)


def test_a_trial_that_fits_the_cluster_but_no_node_is_refused() -> None:
    nodes = [Node(f"node-{i}", {"CPU": 2.0}, {}) for i in range(4)]
    wanted = trial_demands(tiny_config("cluster.learner_cpus=3"), local=True)
    with pytest.raises(ClusterError, match=r"each asks for 3 CPU \(run\.cluster\.learner_cpus\), the largest node has 2"):
        require_placement("a trial", wanted, nodes)


def test_bundles_have_the_labels_of_their_parts() -> None:
    config = tiny_config("cluster.env_labels={zone: a}", "cluster.learner_labels={disk: fast}", "cluster.sink_cpus=0")
    assert trial_labels(config, local=False) == [{}, {"disk": "fast"}, {"zone": "a"}, {"zone": "a"}]
    assert all(bundle["CPU"] > 0.0 for bundle in trial_bundles(config, local=False)[1:])
    assert trial_labels(config, local=True) == [{"zone": "a", "disk": "fast"}]
    assert trial_labels(tiny_config(), local=False) is None
    with pytest.raises(ConfigError, match=r"run\.cluster\.env_labels=\{zone: a\}, and zone: b .* local=false"):
        trial_labels(tiny_config("cluster.env_labels={zone: a}", "cluster.learner_labels={zone: b}"), local=True)


class Idle:
    """A part that does nothing."""

    def ready(self) -> int:
        return 0


def place_all_parts(bundles: list[dict[str, float]]) -> list[int]:
    """Start one part per bundle, the small ones first, and wait for all of them."""
    parts = [start_part(f"part-{i}", Idle, (), cpus=bundle["CPU"], place=Place("test-places", i)) for i, bundle in enumerate(bundles)]
    answers: list[int] = ray.get([part.call.remote("ready") for part in parts], timeout=120.0)
    return answers


@pytest.mark.ray
@pytest.mark.slow
def test_parts_of_a_trial_take_their_own_bundles() -> None:
    bundles = [{"CPU": 0.25}, {"CPU": 0.25}, {"CPU": 0.5}, {"CPU": 0.5}]
    open_session(ClusterConfig(), namespace="test-trial")
    try:
        group = ray.util.placement_group(bundles, strategy="PACK")
        inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
        started = ray.remote(place_all_parts).options(num_cpus=0, scheduling_strategy=inside).remote(bundles)
        assert ray.get(started, timeout=180.0) == [0, 0, 0, 0]
    finally:
        close_session()
