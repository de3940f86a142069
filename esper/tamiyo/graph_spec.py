"""Which channel of which node means what. The builder writes by these names, the network embeds by them.

Wall-clock measurements are absent: an observation depends on the trial alone, so that equal seeds give equal runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esper.leyline.actions import LifecycleOp
from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, EdgeType
from esper.leyline.signals import TENSOR_SCHEMA_SIZE
from esper.leyline.stages import SeedStage

INDEX_SCALE = 64
"""A categorical index travels as index / 64: exact in float32, bounded, and decoded by the network."""
FEATURE_LIMIT = 5.0
"""No feature is larger in magnitude."""

LAYER_TYPES = (
    "unknown", "conv1d", "conv2d", "conv3d", "depthwise_conv2d", "linear", "embedding", "attention", "mlp",
    "batch_norm", "group_norm", "layer_norm", "rms_norm", "pool", "dropout", "residual_block", "transformer_block",
    "recurrent", "positional", "mixer", "scale", "identity", "head",
)  # fmt: skip
"""Layer types with an embedding of their own, in the order of their indices; any other shares that of `unknown`."""
ACTIVATION_TYPES = (
    "unknown", "identity", "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "softmax", "elu", "hardswish", "mish",
    "softplus", "swiglu",
)  # fmt: skip
"""Activation types with an embedding of their own; any other shares that of `unknown`."""
EMPTY_BLUEPRINT = 0
"""Blueprint index of an empty slot; the blueprint at place p has index p + 1."""
STAGES = tuple(stage for stage in SeedStage if stage is not SeedStage.SHADOWING)
"""Stages of the one-hot; the retired one has no channel."""
SLOT_OPS = tuple(op for op in LifecycleOp if op is not LifecycleOp.WAIT)
"""Operations that name a slot, in the order of their availability channels."""


@dataclass(frozen=True)
class GraphSpec:
    """Named channel ranges of every node type, and named attributes of every relation."""

    channels: Mapping[str, Mapping[str, slice]]
    edge_attributes: Mapping[EdgeType, tuple[str, ...]]

    def channel(self, node_type: str, name: str) -> int:
        """Number of a feature's first channel.

        Raises:
            KeyError: If the node type has no such feature.
        """
        start: int = self.channels[node_type][name].start
        return start

    def write(self, node_type: str, rows: np.ndarray, **features: np.ndarray) -> None:
        """Put named features into `rows` [N, F]: [N] for one channel, [N, C] for several."""
        for name, values in features.items():
            where = self.channels[node_type][name]
            rows[:, where] = values[:, None] if values.ndim == 1 else values

    def read(self, node_type: str, rows: np.ndarray, name: str) -> np.ndarray:
        """The channels [N, C] of one feature."""
        return rows[:, self.channels[node_type][name]]


def _ranges(node_type: str, **sizes: int) -> Mapping[str, slice]:
    ends = np.cumsum(list(sizes.values())).tolist()
    if ends[-1] > NODE_WIDTHS[node_type]:
        raise ValueError(f"{node_type} nodes have {NODE_WIDTHS[node_type]} channels, their features need {ends[-1]}")
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


_LAYER = _ranges(
    "layer",
    layer_type=1, activation_type=1, activation_known=1, input_channels=1, output_channels=1, dropout_rate=1,
    num_parameters=1, flops=1, parameter_share=1, flops_share=1, position=1, is_last=1, num_slots=1, num_layers=1,
    weight_norm=1, gradient_norm=1, gradient_variance=1, update_magnitude=1, saturation_rate=1, measured_mask=5,
    relative_gradient=1,
    signals=TENSOR_SCHEMA_SIZE,
    epochs_left=1, accuracy_lead=1, overfit_gap=1, overfit_gap_mask=1, host_gradient_norm=1, host_gradient_norm_mask=1,
    learning_rate=1, host_params=1, seed_growth=1, fossil_growth=1, fossils_left=1, seeds_left=1, fossils=1,
    stage_shares=len(STAGES), legal_ops=len(LifecycleOp), anomalies=1,
)  # fmt: skip
_SEED = _ranges(
    "seed",
    telemetry=10, telemetry_mask=4, stage=len(STAGES), blueprint=1, occupied=1, alpha_target=1, alpha_progress=1,
    alpha_mode=3, operator=3, tempo=1, contribution=1, contribution_mask=1, solo=1, solo_mask=1, gradient_ratio=1,
    gradient_ratio_mask=1, age=1, total_improvement=1, relative_parameters=1, slot_stats=4, slot_stats_mask=4,
    relative_gradient=1, channels=1, positions=1, position=1, legal_ops=len(SLOT_OPS),
)  # fmt: skip
_ACTIVATION = _ranges(
    "activation",
    activation_type=1, known=1, saturation_rate=1, saturation_rate_mask=1, gradient_flow=1, gradient_flow_mask=1,
    computational_cost=1, position=1, nonlinearity=1, layer_type=1,
)  # fmt: skip
_PARAMETER = _ranges(
    "parameter",
    parameter_count=1, learning_rate=1, gradient_variance=1, gradient_variance_mask=1, weight_norm=1,
    weight_norm_mask=1, update_magnitude=1, update_magnitude_mask=1, position=1, parameter_share=1,
)  # fmt: skip

GRAPH_SPEC = GraphSpec(
    channels={"layer": _LAYER, "seed": _SEED, "activation": _ACTIVATION, "parameter": _PARAMETER},
    edge_attributes={
        ("layer", "connects", "layer"): ("connection_strength", "data_flow_volume", "flops_share"),
        ("seed", "monitors", "layer"): ("monitoring_frequency", "alpha"),
        ("layer", "feeds", "activation"): ("activation_frequency", "saturation"),
        ("activation", "influences", "layer"): ("gradient_contribution", "nonlinearity_strength"),
        ("parameter", "tunes", "layer"): ("update_magnitude", "convergence_rate"),
        ("seed", "allowed", "parameter"): ("may_act",),
    },
)
"""The layout of observations; `esper.leyline.graph` fixes the widths that it fills."""

EMBEDDED = {
    "layer": (("layer_type", "layer_type"), ("activation_type", "activation_type")),
    "seed": (("blueprint", "blueprint"),),
    "activation": (("activation_type", "activation_type"), ("layer_type", "layer_type")),
    "parameter": (),
}
"""Node type → (feature, table) of the index channels that the network embeds."""

if {e: len(names) for e, names in GRAPH_SPEC.edge_attributes.items()} != dict(EDGE_WIDTHS):
    raise ValueError("edge attributes do not fill the widths of the graph contract")


def layer_type_index(name: str) -> int:
    """Row of a layer type in its embedding table; 0 for a type without one."""
    return LAYER_TYPES.index(name) if name in LAYER_TYPES else 0


def activation_type_index(name: str | None) -> int:
    """Row of an activation type in its embedding table; 0 if not told or without a row."""
    return ACTIVATION_TYPES.index(name) if name in ACTIVATION_TYPES else 0
