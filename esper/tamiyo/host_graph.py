"""The part of an observation that a host fixes once: its nodes' constant channels and its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE, activation_type_index, layer_type_index
from esper.tamiyo.scaling import log_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import LayerSpec
    from esper.leyline.reports import SlotReport, TrialReport

LINEAR_ACTIVATIONS = frozenset({"identity"})


@dataclass(frozen=True, slots=True)
class HostGraph:
    """Constant channels and edges of one host; L layers, S slots."""

    nodes: dict[str, np.ndarray]
    """Node type → [N, F] float32, zero in the channels that change."""
    edges: dict[EdgeType, np.ndarray]
    """Relation → [2, E] int64."""
    edge_attr: dict[EdgeType, np.ndarray]
    """Relation → [E, A] float32, zero in the attributes that change."""


class HostGraphs:
    """Host graphs by host, the least recently used forgotten beyond a limit."""

    def __init__(self, limit: int = 512):
        """Start with none."""
        self._limit = limit
        self._made: dict[tuple[object, ...], HostGraph] = {}

    def of(self, report: TrialReport) -> HostGraph:
        """The host graph behind a report."""
        layers = tuple(layer.spec for layer in report.layers)
        key = (layers, tuple((s.layer_index, s.channels, s.positions) for s in report.slots))
        graph = self._made.pop(key, None) or build_host_graph(layers, report.slots)
        self._made[key] = graph
        if len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return graph


def build_host_graph(layers: Sequence[LayerSpec], slots: Sequence[SlotReport]) -> HostGraph:
    """Lay out a host: one activation and one parameter node per layer, one seed node per slot."""
    num_layers, at_layer = len(layers), np.array([s.layer_index for s in slots], dtype=np.int64)
    if len(at_layer) and not 0 <= at_layer.min() <= at_layer.max() < num_layers:
        raise ValueError(f"slots follow layers {at_layer.tolist()}, but the host has {num_layers}")
    step, each, slot = np.arange(max(num_layers - 1, 0)), np.arange(num_layers), np.arange(len(slots))
    edges: dict[EdgeType, np.ndarray] = {
        ("layer", "connects", "layer"): np.stack([step, step + 1]),
        ("seed", "monitors", "layer"): np.stack([slot, at_layer]),
        ("layer", "feeds", "activation"): np.stack([each, each]),
        ("activation", "influences", "layer"): np.stack([each, np.minimum(each + 1, num_layers - 1)]),
        ("parameter", "tunes", "layer"): np.stack([each, each]),
        ("seed", "allowed", "parameter"): np.stack([slot, at_layer]),
    }
    attributes = {e: np.zeros((index.shape[1], EDGE_WIDTHS[e]), dtype=np.float32) for e, index in edges.items()}
    width = np.array([s.output_channels for s in layers], dtype=np.float64)
    connects = attributes["layer", "connects", "layer"]
    connects[:, 0] = 1.0
    connects[:, 1] = (width / max(width.max(initial=0.0), 1.0))[:-1]
    connects[:, 2] = shares([s.flops for s in layers])[1:]
    attributes["activation", "influences", "layer"][:, 1] = [_nonlinearity(s) for s in layers]
    nodes = {t: np.zeros((n, NODE_WIDTHS[t]), dtype=np.float32) for t, n in _counts(num_layers, len(slots)).items()}
    _write_layers(nodes["layer"], layers, at_layer)
    _write_activations(nodes["activation"], layers)
    _write_parameters(nodes["parameter"], layers)
    _write_slots(nodes["seed"], slots, num_layers)
    return HostGraph(nodes, edges, attributes)


def shares(values: Sequence[float]) -> np.ndarray:
    """Each value's share of the total; zero where the total is."""
    array = np.array(values, dtype=np.float64)
    result: np.ndarray = array / max(float(array.sum()), 1e-12)
    return result


def _counts(num_layers: int, num_slots: int) -> dict[str, int]:
    return {"layer": num_layers, "seed": num_slots, "activation": num_layers, "parameter": num_layers}


def _positions(count: int) -> np.ndarray:
    return np.arange(count) / max(count - 1, 1)


def _nonlinearity(spec: LayerSpec) -> float:
    return float(spec.activation_type is not None and spec.activation_type not in LINEAR_ACTIVATIONS)


def _indices(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.float64) / INDEX_SCALE


def _write_layers(rows: np.ndarray, layers: Sequence[LayerSpec], at_layer: np.ndarray) -> None:
    num_layers = len(layers)
    GRAPH_SPEC.write(
        "layer",
        rows,
        layer_type=_indices([layer_type_index(s.layer_type) for s in layers]),
        activation_type=_indices([activation_type_index(s.activation_type) for s in layers]),
        activation_known=np.array([s.activation_type is not None for s in layers]),
        input_channels=log_count([s.input_channels for s in layers]),
        output_channels=log_count([s.output_channels for s in layers]),
        dropout_rate=np.array([s.dropout_rate for s in layers]),
        num_parameters=log_count([s.num_parameters for s in layers]),
        flops=log_count([s.flops for s in layers]),
        parameter_share=shares([s.num_parameters for s in layers]),
        flops_share=shares([s.flops for s in layers]),
        position=_positions(num_layers),
        is_last=np.arange(num_layers) == num_layers - 1,
        num_slots=log_count(np.bincount(at_layer, minlength=num_layers)),
        num_layers=np.full(num_layers, log_count([num_layers])[0]),
    )


def _write_activations(rows: np.ndarray, layers: Sequence[LayerSpec]) -> None:
    GRAPH_SPEC.write(
        "activation",
        rows,
        activation_type=_indices([activation_type_index(s.activation_type) for s in layers]),
        layer_type=_indices([layer_type_index(s.layer_type) for s in layers]),
        known=np.array([s.activation_type is not None for s in layers]),
        computational_cost=log_count([s.output_channels for s in layers]),
        position=_positions(len(layers)),
        nonlinearity=np.array([_nonlinearity(s) for s in layers]),
    )


def _write_parameters(rows: np.ndarray, layers: Sequence[LayerSpec]) -> None:
    GRAPH_SPEC.write(
        "parameter",
        rows,
        parameter_count=log_count([s.num_parameters for s in layers]),
        parameter_share=shares([s.num_parameters for s in layers]),
        position=_positions(len(layers)),
    )


def _write_slots(rows: np.ndarray, slots: Sequence[SlotReport], num_layers: int) -> None:
    GRAPH_SPEC.write(
        "seed",
        rows,
        channels=log_count([s.channels for s in slots]),
        positions=log_count([s.positions for s in slots]),
        position=np.array([s.layer_index for s in slots]) / max(num_layers - 1, 1),
    )
