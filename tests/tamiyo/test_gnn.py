"""The graph network against one of PyTorch Geometric's own layers, and its invariances."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.pyg_reference import PygReference, key_of, reference_inputs, reference_weights
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.tamiyo import GraphEncoding, TamiyoGNN, TamiyoGNNConfig
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE
from esper.tamiyo.layout import MAX_BAGS_AT_ONCE, RELATIONS
from esper.tamiyo.planner import GraphPlanner, GraphTensors
from tests.tamiyo.graphs import SMALL, crowded_graph, random_batch, random_graph, without_edges

CPU = torch.device("cpu")


def tensors(batch: GraphBatch, config: TamiyoGNNConfig = SMALL) -> GraphTensors:
    return GraphPlanner(config).tensors(batch, CPU)


def make_gnn(config: TamiyoGNNConfig = SMALL, seed: int = 0) -> TamiyoGNN:
    """A network whose norms, biases and encoders are away from their plain start."""
    torch.manual_seed(seed)
    gnn = TamiyoGNN(config).eval()
    with torch.no_grad():
        for name, parameter in gnn.named_parameters():
            if "norm" in name or "bias" in name or "encoders" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return gnn


def reference_of(gnn: TamiyoGNN) -> PygReference:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last layer leaves out what is not read
        return PygReference(gnn).eval()


def slow_encoding(gnn: TamiyoGNN, batch: GraphBatch) -> tuple[Tensor, Tensor]:
    reference = reference_of(gnn)
    inputs = reference_inputs(batch, gnn.config)
    result: tuple[Tensor, Tensor] = functional_call(reference, reference_weights(reference, gnn), args=(), kwargs=inputs)
    return result


def assert_alike(mine: GraphEncoding, graph: Tensor, seed: Tensor) -> None:
    torch.testing.assert_close(mine.graph, graph, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.seed, seed, rtol=1e-5, atol=1e-5)


def test_before_training_masks_and_unknown_indices_say_nothing() -> None:
    batch, gnn = random_batch(np.random.default_rng(14), 3), TamiyoGNN(SMALL).eval()
    spec = GRAPH_SPEC.channels["seed"]

    def encoded(name: str, value: float) -> Tensor:
        """The nodes where a feature of every seed is `value`."""
        seeds = batch.nodes["seed"].copy()
        seeds[:, spec[name]] = value
        graphs = tensors(replace(batch, nodes=dict(batch.nodes) | {"seed": seeds}))
        rows: Tensor = gnn.encoders(gnn.weights().encoders, graphs.x, graphs.rows, graphs.plan.offsets)
        return rows

    for mask in ("slot_stats_mask", "contribution_mask"):
        torch.testing.assert_close(encoded(mask, 1.0), encoded(mask, 0.0))
    assert not torch.allclose(encoded("slot_stats", 1.0), encoded("slot_stats", 0.0))
    unknown, known = encoded("blueprint", 0.0), encoded("blueprint", 1.0 / INDEX_SCALE)
    assert not torch.allclose(unknown, known)
    with torch.no_grad():
        gnn.encoders["seed"].tables[0].weight[1:] = 7.0  # type: ignore[index, union-attr]
    torch.testing.assert_close(encoded("blueprint", 0.0), unknown)


def many_neighbourhoods() -> GraphBatch:
    """A graph with more neighbourhoods than are treated at once."""
    return random_graph(np.random.default_rng(4), num_layers=1300, num_slots=40, num_edges=3000)


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (SMALL, random_batch(np.random.default_rng(0), 5)),
        (replace(SMALL, neighbour_limits=(3, 2, 2, 1), limited_from_nodes=1), random_batch(np.random.default_rng(1), 3)),
        (replace(TamiyoGNNConfig(), dropout=0.0), random_batch(np.random.default_rng(2), 2)),
        (SMALL, without_edges(random_graph(np.random.default_rng(3)))),
        (SMALL, many_neighbourhoods()),
    ],
    ids=["unlimited", "capped", "default widths", "no edges", "block by block"],
)
def test_values_and_gradients_are_those_of_pytorch_geometric(config: TamiyoGNNConfig, batch: GraphBatch) -> None:
    gnn = make_gnn(config)
    mine = gnn.encode(tensors(batch, config))
    graph, seed = slow_encoding(gnn, batch)
    assert_alike(mine, graph, seed)
    with torch.inference_mode():
        assert_alike(gnn.encode(tensors(batch, config)), graph, seed)
    weights = torch.randn_like(graph), torch.randn_like(seed)
    names, parameters = zip(*gnn.named_parameters(), strict=True)
    losses = ((a * weights[0]).sum() + (b * weights[1]).sum() for a, b in ((mine.graph, mine.seed), (graph, seed)))
    found, expected = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    for name, parameter, a, b in zip(names, parameters, found, expected, strict=True):
        mine_gradient, their_gradient = (torch.zeros_like(parameter) if g is None else g for g in (a, b))
        scale = their_gradient.abs().max().clamp_min(1.0)
        torch.testing.assert_close(mine_gradient / scale, their_gradient / scale, rtol=1e-5, atol=1e-5, msg=name)


def test_the_reference_sees_the_edges_of_the_graph_and_their_reverse() -> None:
    batch = random_graph(np.random.default_rng(5))
    ends_of, attributes_of = reference_inputs(batch, SMALL)["edges"][0]
    for relation in RELATIONS:
        ends, attributes = ends_of[key_of(relation)].numpy(), attributes_of[key_of(relation)].numpy()
        stored = batch.edges[relation.edge][::-1] if relation.is_reverse else batch.edges[relation.edge]
        found = {(*e.tolist(), *a.tolist()) for e, a in zip(ends.T, attributes, strict=True)}
        assert found == {(*e.tolist(), *a.tolist()) for e, a in zip(stored.T, batch.edge_attr[relation.edge], strict=True)}


def test_a_batch_equals_its_graphs_one_by_one() -> None:
    gnn = make_gnn(seed=1)
    rng = np.random.default_rng(1)
    graphs = [random_graph(rng, num_layers=n, num_slots=s, num_edges=e) for n, s, e in [(4, 3, 9), (1, 2, 1), (6, 0, 4), (3, 1, 0)]]
    joined = GraphBatch.concatenate([replace(g, masks=graphs[0].masks) for g in graphs])
    single = [gnn.encode(tensors(g)) for g in graphs]
    assert_alike(gnn.encode(tensors(joined)), torch.cat([s.graph for s in single]), torch.cat([s.seed for s in single]))


def test_limits_act_on_large_graphs_only_whatever_else_is_in_the_batch() -> None:
    rng = np.random.default_rng(14)
    small, large = crowded_graph(rng, num_layers=3, num_slots=4), crowded_graph(rng, num_layers=9, num_slots=4)
    num_nodes = [sum(int(n.sum()) for n in graph.num_nodes.values()) for graph in (small, large)]
    limited = replace(SMALL, neighbour_limits=(3, 2, 2, 1), limited_from_nodes=num_nodes[1])
    assert num_nodes[0] < num_nodes[1]
    gnn = make_gnn(limited, seed=14)
    heard = [gnn.encode(tensors(graph, limited)).graph for graph in (small, large)]
    whole = [gnn.encode(tensors(graph, SMALL)).graph for graph in (small, large)]
    torch.testing.assert_close(heard[0], whole[0], rtol=0, atol=0)
    assert (heard[1] - whole[1]).abs().max() > 1e-3
    joined = GraphBatch.concatenate([small, replace(large, masks=small.masks)])
    torch.testing.assert_close(gnn.encode(tensors(joined, limited)).graph, torch.cat(heard))


def test_forward_takes_the_form_of_pytorch_geometric() -> None:
    gnn = make_gnn(seed=2)
    batch = random_batch(np.random.default_rng(2), 3)
    starts = {t: np.cumsum(n) - n for t, n in batch.num_nodes.items()}
    edges = {}
    for e, index in batch.edges.items():
        graph = np.repeat(np.arange(3), batch.num_edges[e])
        edges[e] = torch.from_numpy(np.stack([index[0] + starts[e[0]][graph], index[1] + starts[e[2]][graph]]))
    got = gnn(
        {t: torch.from_numpy(x) for t, x in batch.nodes.items()},
        edges,
        {t: torch.from_numpy(np.repeat(np.arange(3), n)) for t, n in batch.num_nodes.items()},
        {e: torch.from_numpy(a) for e, a in batch.edge_attr.items()},
    )
    expected = gnn.encode(tensors(batch))
    torch.testing.assert_close(got.graph, expected.graph, rtol=0, atol=0)
    torch.testing.assert_close(got.seed, expected.seed, rtol=0, atol=0)


def test_renumbering_nodes_and_edges_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    config = replace(SMALL, neighbour_limits=(1, 1, 1, 1))
    gnn = make_gnn(config, seed=3)
    batch = crowded_graph(rng)
    order = {t: rng.permutation(len(x)) for t, x in batch.nodes.items()}
    place = {t: np.argsort(o) for t, o in order.items()}
    mixed = {e: rng.permutation(index.shape[1]) for e, index in batch.edges.items()}
    shuffled = replace(
        batch,
        nodes={t: x[order[t]] for t, x in batch.nodes.items()},
        edges={e: np.stack([place[e[0]][index[0]], place[e[2]][index[1]]])[:, mixed[e]] for e, index in batch.edges.items()},
        edge_attr={e: attributes[mixed[e]] for e, attributes in batch.edge_attr.items()},
    )
    a, b = gnn.encode(tensors(batch, config)), gnn.encode(tensors(shuffled, config))
    assert_alike(b, a.graph, a.seed[torch.from_numpy(order["seed"])])


@pytest.mark.parametrize("missing", ["seed", "activation", "parameter"])
def test_a_graph_may_lack_a_node_type(missing: str) -> None:
    gnn = make_gnn(seed=4)
    batch = random_graph(np.random.default_rng(6))
    bare = replace(
        batch,
        nodes=dict(batch.nodes) | {missing: batch.nodes[missing][:0]},
        num_nodes=dict(batch.num_nodes) | {missing: np.array([0])},
        edges={e: index[:, :0] if missing in (e[0], e[2]) else index for e, index in batch.edges.items()},
        edge_attr={e: a[:0] if missing in (e[0], e[2]) else a for e, a in batch.edge_attr.items()},
        num_edges={e: n * 0 if missing in (e[0], e[2]) else n for e, n in batch.num_edges.items()},
    )
    encoding = gnn.encode(tensors(bare))
    assert_alike(encoding, *slow_encoding(gnn, bare))
    assert torch.isfinite(encoding.graph).all()
    assert len(encoding.seed) == (0 if missing == "seed" else 3)


def test_edges_and_their_attributes_matter() -> None:
    gnn = make_gnn(seed=5)
    batch = random_graph(np.random.default_rng(4))
    plain = gnn.encode(tensors(batch)).graph
    changed = gnn.encode(tensors(replace(batch, edge_attr={e: a + 1 for e, a in batch.edge_attr.items()}))).graph
    cut = gnn.encode(tensors(without_edges(batch))).graph
    assert (plain - changed).abs().max() > 1e-4
    assert (plain - cut).abs().max() > 1e-4
    assert torch.isfinite(cut).all()


def test_a_node_listens_to_evenly_spaced_neighbours_within_its_limit() -> None:
    config = replace(SMALL, neighbour_limits=(3, 3, 3, 3), limited_from_nodes=1)
    gnn = make_gnn(config, seed=6)
    batch = random_graph(np.random.default_rng(5), num_layers=3, num_slots=12, num_edges=0)
    edge = ("seed", "monitors", "layer")
    heard = np.array([3, 7, 11])

    def star(seeds: np.ndarray) -> GraphBatch:
        return replace(
            batch,
            edges=dict(batch.edges) | {edge: np.stack([seeds, np.zeros_like(seeds)])},
            edge_attr=dict(batch.edge_attr) | {edge: np.ones((len(seeds), EDGE_WIDTHS[edge]), dtype=np.float32)},
            num_edges=dict(batch.num_edges) | {edge: np.array([len(seeds)])},
        )

    layout = GraphPlanner(config).of(star(np.arange(12)), CPU)
    assert all(max(torch.bincount(layer.multi_bag).tolist(), default=0) <= 3 for layer in layout.layers)

    def after_one_layer(seeds: np.ndarray) -> Tensor:
        graphs = tensors(star(seeds), config)
        edges, weights = graphs.plan.layers[0], gnn.weights()
        x = gnn.encoders(weights.encoders, graphs.x, graphs.rows, graphs.plan.offsets)
        rows: Tensor = gnn.layers[0](weights.layers[0], x, edges, edges.attributes_of(graphs.attributes), graphs.plan.num_nodes)
        return rows[0]

    torch.testing.assert_close(after_one_layer(np.arange(12)), after_one_layer(heard))
    assert not torch.allclose(after_one_layer(heard), after_one_layer(np.array([0, 1, 2])))


@pytest.mark.parametrize("limits", [(3, 2, 2, 1), (4, 4, 4, 4)])
def test_the_order_in_which_edges_are_stored_does_not_decide_which_are_heard(limits: tuple[int, ...]) -> None:
    rng = np.random.default_rng(13)
    config = replace(SMALL, neighbour_limits=limits, limited_from_nodes=1)
    gnn = make_gnn(config, seed=13)
    batch = crowded_graph(rng)
    mixed = {e: rng.permutation(index.shape[1]) for e, index in batch.edges.items()}
    shuffled = replace(
        batch,
        edges={e: index[:, mixed[e]] for e, index in batch.edges.items()},
        edge_attr={e: attributes[mixed[e]] for e, attributes in batch.edge_attr.items()},
    )
    heard = gnn.encode(tensors(batch, config))
    assert_alike(gnn.encode(tensors(shuffled, config)), heard.graph, heard.seed)
    everything = gnn.encode(tensors(batch, SMALL))
    assert (heard.graph - everything.graph).abs().max() > 1e-3


def test_every_parameter_learns() -> None:
    torch.manual_seed(6)
    gnn = TamiyoGNN(SMALL)
    batch = random_batch(np.random.default_rng(6), 24)
    encoding = gnn.encode(tensors(batch))
    (encoding.graph.square().sum() + encoding.seed.sin().sum()).backward()
    silent = [name for name, p in gnn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_widths_are_those_of_the_configuration() -> None:
    gnn = TamiyoGNN(TamiyoGNNConfig()).eval()
    with torch.inference_mode():
        encoding = gnn.encode(tensors(random_batch(np.random.default_rng(7), 2), TamiyoGNNConfig()))
    assert encoding.graph.shape == (2, 128)
    assert encoding.seed.shape == (6, 128)
    assert gnn.encoders.widths == {"layer": 256, "seed": 256, "activation": 128, "parameter": 256}
    assert [layer.out_width for layer in gnn.layers] == [256, 256, 128, 128]


def test_bfloat16_stays_close() -> None:
    gnn, rough_gnn = make_gnn(seed=8), TamiyoGNN(replace(SMALL, has_autocast=True)).eval()
    rough_gnn.load_state_dict(gnn.state_dict())
    graphs = tensors(random_batch(np.random.default_rng(8), 3))
    with torch.inference_mode():
        exact, rough = gnn.encode(graphs).graph, rough_gnn.encode(graphs).graph
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.15)


def test_inference_follows_every_change_of_the_weights() -> None:
    gnn, other = make_gnn(seed=9), make_gnn(seed=10)
    graphs = tensors(random_batch(np.random.default_rng(9), 2))

    @torch.inference_mode()
    def encoded(network: TamiyoGNN) -> Tensor:
        return network.encode(graphs).graph

    before = encoded(gnn)
    assert torch.equal(encoded(gnn), before)
    gnn.encode(graphs).graph.sum().backward()
    torch.optim.SGD(gnn.parameters(), lr=0.1).step()
    stepped = encoded(gnn)
    assert not torch.allclose(stepped, before)
    torch.testing.assert_close(stepped, gnn.encode(graphs).graph.detach())
    gnn.load_state_dict(other.state_dict())
    torch.testing.assert_close(encoded(gnn), encoded(other), rtol=0, atol=0)
    for parameter in gnn.parameters():
        nn.init.zeros_(parameter)
    assert (encoded(gnn) == 0).all()


def test_dropout_acts_in_training_mode_only() -> None:
    gnn = make_gnn(replace(SMALL, dropout=0.5), seed=11)
    graphs = tensors(random_batch(np.random.default_rng(10), 2))
    assert torch.equal(gnn.encode(graphs).graph, gnn.encode(graphs).graph)
    gnn.train()
    assert not torch.equal(gnn.encode(graphs).graph, gnn.encode(graphs).graph)


def test_indices_beyond_their_table_share_its_first_row() -> None:
    config = replace(SMALL, layer_vocab=4)
    gnn = make_gnn(config, seed=12)
    batch = random_graph(np.random.default_rng(11))
    assert_alike(gnn.encode(tensors(batch, config)), *slow_encoding(gnn, batch))


def test_the_block_by_block_case_is_large_enough() -> None:
    layers = GraphPlanner(SMALL).of(many_neighbourhoods(), CPU).layers
    assert all(len(layer.destination) > MAX_BAGS_AT_ONCE for layer in layers[:3])
    assert len(layers[0].blocks) > len({block.relation for block in layers[0].blocks})
    for layer in layers:
        assert 0 < sum(block.senders is not None for block in layer.blocks) < len(layer.blocks)


def test_limits_must_name_every_layer() -> None:
    with pytest.raises(ValueError, match="neighbour_limits"):
        TamiyoGNNConfig(neighbour_limits=(3, 3))


def test_every_node_type_has_an_encoder() -> None:
    assert set(TamiyoGNN(SMALL).encoders) == set(NODE_WIDTHS)
