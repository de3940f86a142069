"""The part of an observation that a host fixes once: its nodes' constant channels and its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE
from esper.tamiyo.norms import PARAMETER_COUNT
from esper.tamiyo.scaling import log_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import LayerSpec
    from esper.leyline.reports import LayerReport, SlotReport, TrialReport
    from esper.tamiyo.registries import Registries

LINEAR_ACTIVATIONS = frozenset({"identity"})
NUM_ASSUMED_LAYERS = 3
"""Layers that a seed without a known place is taken to watch."""


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

    def __init__(self, registries: Registries, *, limit: int = 512):
        """Start with none."""
        self._registries = registries
        self._limit = limit
        self._made: dict[tuple[object, ...], HostGraph] = {}

    def of(self, report: TrialReport) -> HostGraph:
        """The host graph behind a report.

        Raises:
            ValueError: If a slot watches a layer that the host does not have.
        """
        layers = tuple(layer.spec for layer in report.layers)
        slots = tuple([(slot.channels, slot.positions, slot.layer_index, _watched(slot, report.layers)) for slot in report.slots])
        graph = self._made.pop((layers, slots), None)
        if graph is None:
            graph = build_host_graph(layers, [SlotPlace(*slot) for slot in slots], self._registries)
        self._made[layers, slots] = graph
        if len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return graph


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """One slot and the layers that it watches."""

    channels: int
    positions: int
    layer_index: int | None
    """None where the layers are assumed."""
    watched: tuple[int, ...]


def build_host_graph(layers: Sequence[LayerSpec], slots: Sequence[SlotPlace], registries: Registries) -> HostGraph:
    """Lay out a host: one activation and one parameter node per layer, one seed node per slot.

    Raises:
        ValueError: If a slot watches a layer that the host does not have.
    """
    num_layers = len(layers)
    source = np.repeat(np.arange(len(slots)), [len(s.watched) for s in slots])
    watched = np.array([i for s in slots for i in s.watched], dtype=np.int64)
    if len(watched) and not 0 <= watched.min() <= watched.max() < num_layers:
        raise ValueError(f"slots follow layers {watched.tolist()}, but the host has {num_layers}")
    step, each = np.arange(max(num_layers - 1, 0)), np.arange(num_layers)
    edges: dict[EdgeType, np.ndarray] = {
        ("layer", "connects", "layer"): np.stack([step, step + 1]),
        ("seed", "monitors", "layer"): np.stack([source, watched]),
        ("layer", "feeds", "activation"): np.stack([each, each]),
        ("activation", "influences", "layer"): np.stack([each, np.minimum(each + 1, num_layers - 1)]),
        ("parameter", "tunes", "layer"): np.stack([each, each]),
        ("seed", "allowed", "parameter"): np.stack([source, watched]),
    }
    attributes = {e: np.zeros((index.shape[1], EDGE_WIDTHS[e]), dtype=np.float32) for e, index in edges.items()}
    width = np.array([s.output_channels for s in layers], dtype=np.float64)
    GRAPH_SPEC.write_edges(
        ("layer", "connects", "layer"),
        attributes,
        connection_strength=np.ones(len(step)),
        data_flow_volume=(width / max(width.max(initial=0.0), 1.0))[:-1],
        flops_share=shares([s.flops for s in layers])[1:],
    )
    is_bound = np.array([s.layer_index is not None for s in slots], dtype=bool)[source]
    GRAPH_SPEC.write_edges(("seed", "monitors", "layer"), attributes, is_bound=is_bound)
    nonlinearity = np.array([_nonlinearity(s) for s in layers])
    GRAPH_SPEC.write_edges(("activation", "influences", "layer"), attributes, nonlinearity_strength=nonlinearity)
    nodes = {t: np.zeros((n, NODE_WIDTHS[t]), dtype=np.float32) for t, n in _counts(num_layers, len(slots)).items()}
    _write_layers(nodes["layer"], layers, watched, registries)
    _write_activations(nodes["activation"], layers, registries)
    _write_parameters(nodes["parameter"], layers)
    _write_slots(nodes["seed"], slots, num_layers)
    return HostGraph(nodes, edges, attributes)


def _watched(slot: SlotReport, layers: Sequence[LayerReport]) -> tuple[int, ...]:
    """Layers that a slot watches: those named, else the one it follows, else those with the largest share of the gradient."""
    if slot.monitored_layers:
        return slot.monitored_layers
    if slot.layer_index is not None:
        return (slot.layer_index,)
    norms = np.array([x.gradient_norm for x in layers], dtype=np.float64)
    order = np.argsort(-np.where(np.isfinite(norms), norms, -1.0), kind="stable")
    return tuple(sorted(order[:NUM_ASSUMED_LAYERS].tolist()))


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


def _write_layers(rows: np.ndarray, layers: Sequence[LayerSpec], watched: np.ndarray, registries: Registries) -> None:
    num_layers = len(layers)
    GRAPH_SPEC.write(
        "layer",
        rows,
        layer_type=_indices([registries.layer_types.index(s.layer_type) for s in layers]),
        activation_type=_indices([registries.activations.index(s.activation_type) for s in layers]),
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
        num_slots=log_count(np.bincount(watched, minlength=num_layers)),
        num_layers=np.full(num_layers, log_count([num_layers])[0]),
    )


def _write_activations(rows: np.ndarray, layers: Sequence[LayerSpec], registries: Registries) -> None:
    GRAPH_SPEC.write(
        "activation",
        rows,
        activation_type=_indices([registries.activations.index(s.activation_type) for s in layers]),
        layer_type=_indices([registries.layer_types.index(s.layer_type) for s in layers]),
        known=np.array([s.activation_type is not None for s in layers]),
        computational_cost=log_count([s.output_channels for s in layers]),
        position=_positions(len(layers)),
        nonlinearity=np.array([_nonlinearity(s) for s in layers]),
    )


def _write_parameters(rows: np.ndarray, layers: Sequence[LayerSpec]) -> None:
    count = np.array([s.num_parameters for s in layers], dtype=np.float64)
    GRAPH_SPEC.write(
        "parameter",
        rows,
        parameter_count=log_count(count),
        parameter_count_score=PARAMETER_COUNT.score(count),
        parameter_share=shares([s.num_parameters for s in layers]),
        position=_positions(len(layers)),
    )


def _write_slots(rows: np.ndarray, slots: Sequence[SlotPlace], num_layers: int) -> None:
    place = [float(np.mean(s.watched or (0,))) if s.layer_index is None else s.layer_index for s in slots]
    GRAPH_SPEC.write(
        "seed",
        rows,
        channels=log_count([s.channels for s in slots]),
        positions=log_count([s.positions for s in slots]),
        position=np.array(place) / max(num_layers - 1, 1),
        monitoring_scope=np.array([len(s.watched) for s in slots]) / max(num_layers, 1),
    )
