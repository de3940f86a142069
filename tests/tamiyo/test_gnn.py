"""The graph network against a slow one, and its invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, SAGEConv

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.tamiyo import TamiyoGNN, TamiyoGNNConfig
from esper.tamiyo.gnn import RelationalLayer
from esper.tamiyo.layout import LAST_RELATIONS, RELATIONS, GraphTensors, Relation, tensors_from_batch
from tests.tamiyo.graphs import SMALL, random_batch, random_graph, without_edges

CPU = torch.device("cpu")


def tensors(batch: GraphBatch, config: TamiyoGNNConfig = SMALL) -> GraphTensors:
    return tensors_from_batch(batch, neighbour_limits=config.neighbour_limits, device=CPU)


def pyg_layer(layer: RelationalLayer, x: dict[str, Tensor], batch: GraphBatch) -> dict[str, Tensor]:
    """The same layer, relation by relation, with PyTorch Geometric's own convolutions for one graph."""
    out = {}
    for node_type in layer.destinations:
        total = layer.bias[node_type] + functional.linear(x[node_type], block(layer, node_type, "root"))
        column = 0
        for index, relation in enumerate(layer.relations):
            width = EDGE_WIDTHS[relation.edge]
            if relation.destination == node_type:
                edge_index = torch.from_numpy(batch.edges[relation.edge])
                edge_index = edge_index.flip(0) if relation.is_reverse else edge_index
                attr = torch.from_numpy(batch.edge_attr[relation.edge])
                message = convolve(layer, index, (x[relation.source], x[node_type]), edge_index, attr, slice(column, column + width))
                total = total + functional.layer_norm(message, (layer.out_width,)) * layer.norm_weight[index]
            column += width
        same_width = x[node_type].shape[1] == layer.out_width
        residual = x[node_type] if same_width else functional.linear(x[node_type], block(layer, node_type, "residual"))
        out[node_type] = residual + functional.gelu(total)
    return out


def block(layer: RelationalLayer, node_type: str, name: str) -> Tensor:
    linear = layer.project[node_type]
    assert isinstance(linear, nn.Linear)
    return linear.weight[layer.blocks(node_type)[name]]


def convolve(layer: RelationalLayer, index: int, x: tuple[Tensor, Tensor], edge_index: Tensor, attr: Tensor, columns: slice) -> Tensor:
    relation = layer.relations[index]
    value = block(layer, relation.source, f"value/{index}")
    edge_weight = layer.edge_weight[:, columns]
    widths = (x[0].shape[1], x[1].shape[1])
    if layer.num_heads is None:
        joined = (torch.cat([x[0], torch.zeros(len(x[0]), attr.shape[1])], 1), x[1])
        sage = SAGEConv((joined[0].shape[1], widths[1]), layer.out_width, root_weight=False, bias=False)
        sage.lin_l.weight.data = torch.cat([value, edge_weight], 1).detach()
        from_nodes: Tensor = sage(joined, edge_index)
        edge_nodes = torch.cat([torch.zeros(len(attr), widths[0]), attr], 1)
        own = torch.stack([torch.arange(len(attr)), edge_index[1]])
        from_edges: Tensor = sage((edge_nodes, x[1]), own)
        return from_nodes + from_edges
    gat = GATConv(widths, layer.out_width, heads=layer.num_heads, concat=False, add_self_loops=False, edge_dim=attr.shape[1], bias=False)
    gat.lin_src.weight.data = value.detach()
    unfold(gat.att_src, gat.lin_src.weight, block(layer, relation.source, f"q/{index}"))
    unfold(gat.att_dst, gat.lin_dst.weight, block(layer, relation.destination, f"k/{index}"))
    unfold(gat.att_edge, gat.lin_edge.weight, edge_weight)
    result: Tensor = gat(x, edge_index, edge_attr=attr)
    return result


def unfold(attention: Tensor, weight: Tensor, folded: Tensor) -> None:
    """Set PyG's attention vector (and the weight, where free) so that their product is the folded vector."""
    heads, width = attention.shape[1:]
    by_head = weight.detach().view(heads, width, -1)
    for head in range(heads):
        solution = torch.linalg.lstsq(by_head[head].T.double(), folded[head][:, None].double()).solution
        attention.data[0, head] = solution[:, 0].float()


@pytest.mark.parametrize("relations", [RELATIONS, LAST_RELATIONS])
@pytest.mark.parametrize("num_heads", [None, 3])
def test_layer_equals_pytorch_geometric(num_heads: int | None, relations: tuple[Relation, ...]) -> None:
    torch.manual_seed(0)
    batch = random_graph(np.random.default_rng(0))
    widths = {"layer": 6, "seed": 8, "activation": 5, "parameter": 7}
    layer = RelationalLayer(widths, 8, relations=relations, num_heads=num_heads, dropout=0.0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = {t: torch.randn(int(batch.num_nodes[t][0]), w) for t, w in widths.items()}
    limits = (99, 99)
    edges = tensors_from_batch(batch, neighbour_limits=limits, device=CPU).edges[0 if relations is RELATIONS else 1]
    got = layer(x, edges)
    expected = pyg_layer(layer, x, batch)
    assert got.keys() == expected.keys()
    for node_type in got:
        torch.testing.assert_close(got[node_type], expected[node_type], rtol=1e-4, atol=1e-4)


def test_a_batch_equals_its_graphs_one_by_one() -> None:
    torch.manual_seed(1)
    gnn = TamiyoGNN(SMALL).eval()
    rng = np.random.default_rng(1)
    graphs = [random_graph(rng, num_layers=n, num_slots=s, num_edges=e) for n, s, e in [(4, 3, 9), (1, 2, 1), (6, 0, 4), (3, 1, 0)]]
    joined = GraphBatch.concatenate([replace(g, masks=graphs[0].masks) for g in graphs])
    whole = gnn.encode(tensors(joined))
    single = [gnn.encode(tensors(g)) for g in graphs]
    torch.testing.assert_close(whole.graph, torch.cat([s.graph for s in single]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.seed, torch.cat([s.seed for s in single]), rtol=1e-5, atol=1e-5)


def test_forward_takes_the_form_of_pytorch_geometric() -> None:
    torch.manual_seed(2)
    gnn = TamiyoGNN(SMALL).eval()
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


def test_renumbering_the_nodes_changes_nothing() -> None:
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    gnn = TamiyoGNN(SMALL).eval()
    batch = random_graph(rng)
    order = {t: rng.permutation(len(x)) for t, x in batch.nodes.items()}
    place = {t: np.argsort(o) for t, o in order.items()}
    shuffled = replace(
        batch,
        nodes={t: x[order[t]] for t, x in batch.nodes.items()},
        edges={e: np.stack([place[e[0]][index[0]], place[e[2]][index[1]]]) for e, index in batch.edges.items()},
    )
    a, b = gnn.encode(tensors(batch)), gnn.encode(tensors(shuffled))
    torch.testing.assert_close(a.graph, b.graph, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.seed[torch.from_numpy(order["seed"])], b.seed, rtol=1e-5, atol=1e-5)


def test_edges_and_their_attributes_matter() -> None:
    torch.manual_seed(4)
    gnn = TamiyoGNN(SMALL).eval()
    batch = random_graph(np.random.default_rng(4))
    plain = gnn.encode(tensors(batch)).graph
    changed = gnn.encode(tensors(replace(batch, edge_attr={e: a + 1 for e, a in batch.edge_attr.items()}))).graph
    cut = gnn.encode(tensors(without_edges(batch))).graph
    assert (plain - changed).abs().max() > 1e-4
    assert (plain - cut).abs().max() > 1e-4
    assert torch.isfinite(cut).all()


def test_a_node_listens_to_at_most_its_limit() -> None:
    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    config = replace(SMALL, neighbour_limits=(2, 2, 2, 2))
    gnn = TamiyoGNN(config).eval()
    batch = random_graph(rng, num_layers=3, num_slots=12, num_edges=12)
    edge = ("seed", "monitors", "layer")
    edges = dict(batch.edges) | {edge: np.stack([np.arange(12), np.zeros(12, dtype=np.int64)])}
    star = replace(batch, edges=edges)
    laid_out = tensors(star, config).edges
    assert all(torch.bincount(e.bag).max() <= 2 for e in laid_out)
    assert all(torch.bincount(e.bag).max() == 12 for e in tensors(star, replace(SMALL, neighbour_limits=(12,) * 4)).edges)
    assert torch.isfinite(gnn.encode(tensors(star, config)).graph).all()


def test_every_parameter_learns() -> None:
    torch.manual_seed(6)
    gnn = TamiyoGNN(SMALL)
    encoding = gnn.encode(tensors(random_batch(np.random.default_rng(6), 4)))
    (encoding.graph.square().sum() + encoding.seed.sin().sum()).backward()
    silent = [name for name, p in gnn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_widths_are_those_of_the_configuration() -> None:
    gnn = TamiyoGNN(TamiyoGNNConfig()).eval()
    with torch.inference_mode():
        encoding = gnn.encode(tensors(random_batch(np.random.default_rng(7), 2)))
        encoded = {t: gnn.encoders[t](torch.zeros(1, width)).shape[1] for t, width in NODE_WIDTHS.items()}
    assert encoding.graph.shape == (2, 128)
    assert encoding.seed.shape == (6, 128)
    assert encoded == {"layer": 256, "seed": 256, "activation": 128, "parameter": 256}


def test_bfloat16_stays_close() -> None:
    torch.manual_seed(8)
    gnn = TamiyoGNN(SMALL).eval()
    graphs = tensors(random_batch(np.random.default_rng(8), 3))
    with torch.inference_mode():
        exact = gnn.encode(graphs).graph
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = gnn.encode(graphs).graph
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


def test_limits_must_name_every_layer() -> None:
    with pytest.raises(ValueError, match="neighbour_limits"):
        TamiyoGNNConfig(neighbour_limits=(3, 3))
