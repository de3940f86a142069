from __future__ import annotations

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from esper.distributed.actors import Place, close_session, open_session, start_part
from esper.distributed.config import ClusterConfig
from esper.distributed.executor import ClusterError
from esper.distributed.sweep.placement import require_room, trial_bundles
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
    bundles = trial_bundles(tiny_config("cluster.env_gpus=0.5"), local=False)
    require_room(bundles, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(ClusterError, match=r"a trial asks for 1 GPU, the cluster has 0; lower run\.cluster\.env_gpus"):
        require_room(bundles, {"CPU": 2.0})
    with pytest.raises(ClusterError, match=r"asks for 2 CPU, the cluster has 1;"):
        require_room(bundles, {"CPU": 1.0, "GPU": 1.0})


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
