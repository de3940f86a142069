"""The layers of somebody else's model as the policy sees them: type, activation, dropout, size and cost, from one observed run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from esper.kasmina.wrapping.observe import dense
from esper.leyline.host import LayerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from esper.kasmina.wrapping.observe import Call, Observation

MAX_LAYERS = 64
"""Beyond so many, layers are told block by block; only a model without nesting has more."""
PREFIX = "model."
"""Where the user's model lies in its host: a layer's id is the path of its submodule there."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYER_TYPES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("conv1d", (nn.Conv1d, nn.ConvTranspose1d)),
    ("conv2d", (nn.Conv2d, nn.ConvTranspose2d)),
    ("conv3d", (nn.Conv3d, nn.ConvTranspose3d)),
    ("linear", (nn.Linear, nn.Bilinear)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
    ("attention", (nn.MultiheadAttention,)),
    ("batch_norm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    ("group_norm", (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    ("layer_norm", (nn.LayerNorm,)),
    ("rms_norm", (nn.RMSNorm,)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
)
_ACTIVATIONS: tuple[tuple[str, type[nn.Module]], ...] = (
    ("relu", nn.ReLU),
    ("relu", nn.ReLU6),
    ("leaky_relu", nn.LeakyReLU),
    ("leaky_relu", nn.PReLU),
    ("gelu", nn.GELU),
    ("silu", nn.SiLU),
    ("tanh", nn.Tanh),
    ("sigmoid", nn.Sigmoid),
    ("softmax", nn.Softmax),
    ("elu", nn.ELU),
    ("hardswish", nn.Hardswish),
    ("mish", nn.Mish),
    ("softplus", nn.Softplus),
)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(slots=True)
class _Layer:
    """One layer while the run is read."""

    name: str
    module: nn.Module
    segment: int
    input_channels: int
    output_channels: int
    flops: int
    activation: str | None
    dropout: float

    def spec(self) -> LayerSpec:
        return LayerSpec(
            layer_id=PREFIX + self.name,
            layer_type=layer_type(self.module),
            activation_type=self.activation,
            input_channels=self.input_channels,
            output_channels=self.output_channels,
            dropout_rate=self.dropout,
            num_parameters=sum(p.numel() for p in self.module.parameters()),
            flops=self.flops,
            segment=self.segment,
        )


def layer_names(model: nn.Module) -> frozenset[str]:
    """Paths of the layers: submodules with parameters of their own and no other layer inside.

    Parameters that stand beside layers in a container, such as a class token, belong to no layer.
    """
    names: list[str] = []
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{outer}.") for outer in names):
            continue
        is_whole = isinstance(module, nn.MultiheadAttention)
        has_own = next(module.parameters(recurse=False), None) is not None
        has_inner = any(next(child.parameters(), None) is not None for child in module.children())
        if is_whole or (has_own and not has_inner):
            names.append(name)
    return frozenset(names)


def layer_type(module: nn.Module) -> str:
    """Name of a layer in the layer-type registry; `unknown` where torch does not define its kind."""
    if isinstance(module, nn.Conv2d) and 1 < module.in_channels == module.groups:
        return "depthwise_conv2d"
    return next((name for name, kinds in _LAYER_TYPES if isinstance(module, kinds)), "unknown")


def activation_type(module: nn.Module) -> str | None:
    """Name of an activation module in the activation registry; None where it is another module."""
    return next((name for name, kind in _ACTIVATIONS if isinstance(module, kind)), None)


def layer_specs(model: nn.Module, run: Observation, segments: Mapping[str, int], batch: int) -> tuple[LayerSpec, ...]:
    """Every layer that ran, in the order of first calls.

    Args:
        model: The model that was observed.
        run: The observation.
        segments: Segment that ends with a submodule's call, by its path.
        batch: Samples in the observed batch.
    """
    specs = tuple(layer.spec() for layer in _read(run.calls, layer_names(model), segments, batch=batch))
    return specs if len(specs) <= MAX_LAYERS else _by_block(model, specs)


def _read(calls: Sequence[Call], names: Set[str], segments: Mapping[str, int], *, batch: int) -> list[_Layer]:
    layers: dict[str, _Layer] = {}
    made_by: dict[int, _Layer] = {}
    """Layer behind a tensor by its id, which stays its own as long as the calls hold the tensor."""
    segment = 0
    for call in calls:
        before = made_by.get(id(call.inputs[0])) if call.inputs else None
        if call.name in names:
            layer = layers.get(call.name)
            if layer is None:
                layer = layers[call.name] = _begin(call, segment)
            layer.flops += _flops(call) // batch
            made_by[id(call.output)] = layer
        elif before is not None and (activation_type(call.module) is not None or isinstance(call.module, _DROPOUTS)):
            before.activation = before.activation or activation_type(call.module)
            before.dropout = max(before.dropout, _own_dropout(call.module))
            made_by[id(call.output)] = before
        segment = max(segment, segments.get(call.name, -1) + 1)
    return list(layers.values())


def _begin(call: Call, segment: int) -> _Layer:
    inputs, outputs = _channels(call)
    parts = list(call.module.modules())
    return _Layer(
        name=call.name,
        module=call.module,
        segment=segment,
        input_channels=inputs,
        output_channels=outputs,
        flops=0,
        activation=next(_known(activation_type(part) for part in parts), None),
        dropout=max(_own_dropout(part) for part in parts),
    )


def _own_dropout(module: nn.Module) -> float:
    """Rate of a dropout module, and of attention and recurrent layers that drop by themselves."""
    rate = module.p if isinstance(module, _DROPOUTS) else getattr(module, "dropout", 0.0)
    return float(rate) if isinstance(rate, (int, float)) else 0.0


def _channels(call: Call) -> tuple[int, int]:
    """What the module says of its widths, else what its values show."""
    module = call.module
    for given, made in (
        ("in_channels", "out_channels"),
        ("in_features", "out_features"),
        ("num_embeddings", "embedding_dim"),
        ("embed_dim", "embed_dim"),
        ("num_features", "num_features"),
        ("num_channels", "num_channels"),
        ("input_size", "hidden_size"),
    ):
        widths = getattr(module, given, None), getattr(module, made, None)
        if isinstance(widths[0], int) and isinstance(widths[1], int):
            return widths[0], widths[1]
    shape = getattr(module, "normalized_shape", None)
    if isinstance(shape, tuple):
        return math.prod(shape), math.prod(shape)
    before = next((value for value in call.inputs if isinstance(value, Tensor)), None)
    return _width(dense(before)), _width(_first_tensor(call.output))


def _width(value: Tensor | None) -> int:
    if value is None or value.ndim < 2:
        return 1
    return value.shape[1] if value.ndim == 4 else value.shape[-1]


def _first_tensor(value: Any) -> Tensor | None:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return next((dense(item) for item in items if isinstance(item, Tensor)), None)


def _flops(call: Call) -> int:
    """Multiply-accumulates of one call for its whole batch; an elementwise layer counts one for every value."""
    module, made = call.module, _first_tensor(call.output)
    if made is None or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 0
    if isinstance(module, _CONVOLUTIONS):
        return made.numel() * module.weight[0].numel()
    if isinstance(module, _TRANSPOSED):
        given = _first_tensor(call.inputs)
        return 0 if given is None else given.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return made.numel() * module.in_features
    if isinstance(module, nn.MultiheadAttention):
        length = made.shape[1 if module.batch_first else 0] if made.ndim == 3 else made.shape[0]
        return int(made.numel() * (4 * module.embed_dim + 2 * length))
    if isinstance(module, nn.RNNBase):
        return made.numel() // made.shape[-1] * sum(p.numel() for p in module.parameters() if p.ndim == 2)
    return made.numel()


def _by_block(model: nn.Module, specs: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Layers joined by the deepest containers that leave at most `MAX_LAYERS` of them."""
    depth = max(spec.layer_id.count(".") for spec in specs)
    groups = _grouped(specs, depth)
    while len(groups) > MAX_LAYERS and depth > 1:
        depth -= 1
        groups = _grouped(specs, depth)
    return tuple(_join(model, name, group) for name, group in groups.items())


def _grouped(specs: Sequence[LayerSpec], depth: int) -> dict[str, list[LayerSpec]]:
    groups: dict[str, list[LayerSpec]] = {}
    for spec in specs:
        groups.setdefault(".".join(spec.layer_id.split(".")[: depth + 1]), []).append(spec)
    return groups


def _join(model: nn.Module, name: str, group: Sequence[LayerSpec]) -> LayerSpec:
    if len(group) == 1:
        return replace(group[0], layer_id=name)
    largest = max(group, key=lambda spec: spec.num_parameters)
    types = {spec.layer_type for spec in group}
    block = model.get_submodule(name.removeprefix(PREFIX))
    return LayerSpec(
        layer_id=name,
        layer_type="transformer_block" if "attention" in types else "mlp" if types == {"linear"} else largest.layer_type,
        activation_type=next(_known(spec.activation_type for spec in group), None),
        input_channels=group[0].input_channels,
        output_channels=group[-1].output_channels,
        dropout_rate=max(spec.dropout_rate for spec in group),
        num_parameters=sum(p.numel() for p in block.parameters()),
        flops=sum(spec.flops for spec in group),
        segment=group[0].segment,
    )


def _known(names: Iterator[str | None]) -> Iterator[str]:
    return (name for name in names if name is not None)
