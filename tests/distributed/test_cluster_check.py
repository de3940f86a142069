from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from esper.distributed.cluster_check import (
    Demand,
    Node,
    demands,
    has_labels,
    knock,
    living_nodes,
    require_placement,
    shortages,
    starts_cluster,
)
from esper.distributed.executor import ClusterError
from tests.distributed.runs import tiny_config

if TYPE_CHECKING:
    from collections.abc import Mapping


def node(cpus: float, gpus: float = 0.0, **labels: str) -> Node:
    return Node("10.0.0.1", {"CPU": cpus, "GPU": gpus}, labels)


def env(count: int, cpus: float, gpus: float = 0.0, labels: Mapping[str, str] | None = None) -> Demand:
    return Demand("env", count, cpus, gpus, labels or {})


def test_what_a_run_asks_for_follows_its_settings() -> None:
    config = tiny_config("cluster.learner_gpus=1", "cluster.env_gpus=0.5", "cluster.sink_cpus=0", "cluster.env_labels={zone: a}")
    assert demands(config) == [
        Demand("learner", 1, 0.25, 1.0, {}),
        Demand("env", 2, 0.75, 0.5, {"zone": "a"}),
        Demand("sink", 1, 0.0, 0.0, {}),
    ]


def test_enough_in_all_is_not_enough_if_no_node_holds_one_actor() -> None:
    assert shortages([env(2, 3.0)], [node(3.0), node(3.0)]) == []
    (missing,) = shortages([env(1, 3.0)], [node(2.0), node(2.0)])
    assert missing == "no node for the env: each asks for 3 CPU (cluster.env_cpus), the largest node has 2"


def test_actors_that_do_not_fit_beside_the_others_are_counted() -> None:
    (missing,) = shortages([env(5, 1.5)], [node(4.0), node(2.0)])
    assert missing.startswith("2 of 5 env actors find no node: each asks for 1.5 CPU")
    assert "6 CPU in all" in missing
    assert "rollout.envs_per_actor" in missing


def test_what_takes_nothing_fits_onto_a_full_node() -> None:
    sink = Demand("sink", 1, 0.0, 0.0, {})
    assert shortages([env(2, 1.0), sink], [node(2.0)]) == []
    assert shortages([sink], []) == ["no node for the sink: none of 0 has the labels {} (cluster.sink_labels)"]


def test_the_large_ones_are_placed_first() -> None:
    small, large = Demand("sink", 1, 1.0, 0.0, {}), Demand("learner", 1, 4.0, 0.0, {})
    assert shortages([small, large], [node(4.0), node(1.0)]) == []


def test_gpus_and_labels_are_missed_by_name() -> None:
    (missing,) = shortages([env(2, 1.0, 0.5)], [node(8.0)])
    assert missing == "2 of 2 env actors find no node: each asks for 0.5 GPU (cluster.env_gpus), the largest node has 0"
    (missing,) = shortages([env(1, 1.0, labels={"zone": "b"})], [node(8.0, zone="a")])
    assert "none of 1 has the labels {'zone': 'b'} (cluster.env_labels)" in missing
    config = tiny_config("cluster.learner_gpus=1")
    with pytest.raises(ClusterError, match=r"does not fit onto the cluster: no node for the learner: each asks for 1 GPU"):
        require_placement("the run", demands(config), [node(8.0)])
    require_placement("the run", demands(config), [node(2.0), node(2.0, 1.0)])


def test_what_is_asked_for_in_all_is_told_with_the_settings_that_say_so() -> None:
    config = tiny_config("cluster.env_cpus=1", "cluster.env_gpus=0.5")
    require_placement("the run", demands(config), [node(2.5, 1.0)])
    with pytest.raises(ClusterError, match=r"the run asks for 2\.5 CPU and 1 GPU in all .*\(cluster\.env_gpus\), the largest node has 0"):
        require_placement("the run", demands(config), [node(8.0)])
    with pytest.raises(ClusterError, match=r"a trial asks for 2\.5 CPU .* with 2 CPU in all; lower run\.cluster\.\w+_cpus or run\."):
        require_placement("a trial", demands(config, "run."), [node(2.0, 1.0)])


def test_labels_that_nobody_knows_yet_keep_nobody_away() -> None:
    asked = env(1, 1.0, labels={"zone": "b"})
    assert shortages([asked], [Node("this machine", {"CPU": 1.0}, None)]) == []
    assert shortages([asked], [Node("this machine", {"CPU": 1.0}, {})]) != []


@pytest.mark.parametrize(
    ("address", "environ", "is_own"),
    [
        (None, {}, True),
        (None, {"RAY_ADDRESS": "head:6379"}, True),
        ("head:6379", {}, False),
        (None, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, False),
    ],
)
def test_a_run_starts_a_cluster_unless_one_is_named_or_it_is_a_job(address: str | None, environ: dict[str, str], is_own: bool) -> None:
    assert starts_cluster(address, environ) is is_own


@pytest.mark.parametrize(
    ("condition", "value", "is_met"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", None, True),
        ("!a", "a", False),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", "a", False),
    ],
)
def test_label_selectors_mean_what_ray_means(condition: str, value: str | None, is_met: bool) -> None:
    assert has_labels({} if value is None else {"zone": value}, {"zone": condition}) is is_met


def test_dead_nodes_do_not_count() -> None:
    described = {"NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 2.0}, "Labels": {"zone": "a"}, "Alive": True}
    assert living_nodes([described, {**described, "Alive": False}]) == [Node("10.0.0.1", {"CPU": 2.0}, {"zone": "a"})]


def test_an_address_that_nobody_answers_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(ClusterError, match=rf"cluster\.address='{address}' cannot be reached"):
                knock(address)
        taken.listen()
        knock(f"127.0.0.1:{port}")
    knock("auto")
