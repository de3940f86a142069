"""State of a training system on the wire, as a policy service receives it, and the host that it trains. None is unknown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, TypeVar
from uuid import uuid4

from esper.leyline.actions import HEAD_SIZES, NUM_BLUEPRINT_PLACES, Head, LifecycleOp
from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.host import LayerSpec
from esper.leyline.masks import GrowthLimits
from esper.leyline.schemas import BlueprintSpec
from esper.leyline.signals import FastTrainingSignals
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState, SeedTraits

PACKET_VERSION = 1
LARGEST_COUNT = 2**53
"""Counts beyond it are not exact as floats."""
Kind = TypeVar("Kind")
_CHOICES = {
    "blueprints": NUM_BLUEPRINT_PLACES,
    "ops": len(LifecycleOp),
    "styles": HEAD_SIZES[Head.STYLE],
    "tempos": HEAD_SIZES[Head.TEMPO],
    "alpha_targets": HEAD_SIZES[Head.ALPHA_TARGET],
}
"""Fields of `GrowthLimits` that hold choices, and how many there are of each."""


class PacketError(ValueError):
    """A packet or host description that describes something impossible; the message names key, value and what would be right."""


@dataclass(frozen=True, slots=True)
class HardwareContext:
    """The device that trains."""

    device_type: str
    device_id: str
    total_memory_gb: float | None = None
    available_memory_gb: float | None = None
    temperature_celsius: float | None = None
    utilization_percent: float | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class SeedState:
    """One seed as the service sees it."""

    seed_id: str
    stage: SeedStage
    gradient_norm: float | None = None
    learning_rate: float | None = None
    layer_depth: int | None = None
    """Index of the host layer that it follows; needed only where `slot_id` does not tell."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Fields of `SeedMetrics` by name, and `alpha`."""
    age_epochs: int | None = None
    risk_score: float | None = None
    """0…1."""
    slot_id: str | None = None
    """Slot of the host that it grows in."""
    monitored_layers: tuple[str, ...] = ()
    """Ids of the layers that it watches; none named are those of its slot, or the three that matter most to the loss."""
    blueprint_id: str | None = None
    blueprint_place: int | None = None
    """Place in the blueprint head; needed only where the host does not offer `blueprint_id`."""
    epochs_in_stage: int | None = None
    num_parameters: int | None = None
    """Unless told, that of its blueprint at its slot."""
    alpha: float | None = None
    alpha_target: float | None = None
    alpha_mode: AlphaMode = AlphaMode.HOLD
    alpha_progress: float | None = None
    """Share of the running schedule that is done, 0…1."""
    operator: BlendOperator = BlendOperator.ADD
    tempo_epochs: int | None = None
    """Epochs of the first blend."""
    is_gate_open: bool = False
    """Whether the lifecycle would let it pass to the next stage; what is not known to be open is closed."""
    traits: SeedTraits | None = None
    """Its `risk_score` gives way to the seed's own, if that is told."""


@dataclass(frozen=True, slots=True)
class LayerState:
    """Measurements of one host layer; see `LayerReport`."""

    layer_id: str
    weight_norm: float | None = None
    gradient_norm: float | None = None
    gradient_variance: float | None = None
    update_magnitude: float | None = None
    saturation_rate: float | None = None
    update_frequency: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """Measurements at one slot; see `SlotReport`."""

    slot_id: str
    gradient_norm: float | None = None
    activation_mean: float | None = None
    activation_std: float | None = None
    spatial_std: float | None = None


@dataclass(frozen=True, slots=True)
class SystemStatePacket:
    """One moment of one training run. Accuracy in percent."""

    current_epoch: int
    validation_accuracy: float
    validation_loss: float
    version: int = PACKET_VERSION
    timestamp_ns: int = field(default_factory=time.time_ns)
    """Since the Unix epoch."""
    packet_id: str = field(default_factory=lambda: str(uuid4()))
    hardware_context: HardwareContext | None = None
    training_metrics: Mapping[str, float] = field(default_factory=dict)
    """By name: `loss`, `gradient_norm`, `samples_per_s`, `hook_latency_ms`, `learning_rate`, `training_accuracy`,
    `committed_accuracy` (with fossils alone), `consecutive_anomalies`, `seed_params` and `fossil_params` (unless told, summed over
    the seeds); others are ignored."""
    seed_states: tuple[SeedState, ...] = ()
    global_step: int | None = None
    training_loss: float | None = None
    source_subsystem: str = "tolaria"
    training_run_id: str | None = None
    experiment_name: str | None = None
    max_epochs: int | None = None
    """Unless told, that of the host's description."""
    layer_states: tuple[LayerState, ...] = ()
    slot_states: tuple[SlotState, ...] = ()
    signals: FastTrainingSignals | None = None
    """The base features, from a sender that remembers earlier epochs; else as much of them as this packet tells."""
    optimizer: OptimizerState | None = None


@dataclass(frozen=True, slots=True)
class SlotDescription:
    """One place of a host where a seed may grow."""

    slot_id: str
    layer_index: int | None
    """Index into the host's layers of the layer it follows; None where that is not known."""
    channels: int
    positions: int


@dataclass(frozen=True, slots=True)
class HostDescription:
    """What does not change while a host is trained, told to a service once."""

    layers: tuple[LayerSpec, ...]
    """In execution order, the head last."""
    slots: tuple[SlotDescription, ...]
    """In the order of the slot head."""
    max_epochs: int
    blueprints: tuple[BlueprintSpec, ...] = ()
    """On offer, at any width; none named are those that the limits allow."""
    limits: GrowthLimits | None = None
    """None takes those that the policy was trained under."""
    num_parameters: int | None = None
    """Parameters of the host; unless told, the sum over its layers."""

    def __post_init__(self) -> None:
        """Refuse a host that cannot be; None stands for none, and lists become tuples.

        Raises:
            PacketError: If something is of another kind, ids stand twice or are no text, a slot follows a layer that is not there, or a
                number is impossible.
        """
        for name, kind in (("layers", LayerSpec), ("slots", SlotDescription), ("blueprints", BlueprintSpec)):
            object.__setattr__(self, name, check_items(name, getattr(self, name), kind))
        for layer in self.layers:
            _check_layer(layer)
        for slot in self.slots:
            _check_slot(slot, len(self.layers))
        for blueprint in self.blueprints:
            _check_blueprint(blueprint)
        _refuse_twice("layer", [layer.layer_id for layer in self.layers])
        _refuse_twice("slot", [slot.slot_id for slot in self.slots])
        check_count("max_epochs", self.max_epochs, least=1)
        if self.num_parameters is not None:
            check_count("num_parameters", self.num_parameters)
        if self.limits is not None:
            _check_limits(check_kind("limits", self.limits, GrowthLimits))


def check_count(key: str, value: object, *, least: int = 0) -> int:
    """Return `value` as an int if it counts something.

    Raises:
        PacketError: If it is no whole number from `least` to 2⁵³.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= LARGEST_COUNT:
        raise PacketError(f"{key}={value!r} should be a whole number from {least} to 2**53")
    return int(value)


def check_index(key: str, value: object, size: int) -> int:
    """Return `value` as an int if it is an index below `size`.

    Raises:
        PacketError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < size:
        raise PacketError(f"{key}={value!r} should be an index below {size}")
    return int(value)


def check_name(key: str, value: object) -> str:
    """Return `value` if it can be stored and sent as text.

    Raises:
        PacketError: If it is no text, or holds half of a surrogate pair, which no encoding of Unicode can write.
    """
    if not isinstance(value, str):
        raise PacketError(f"{key}={value!r} should be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PacketError(f"{key}={value!r} should be text that UTF-8 can write: {error.reason}") from error
    return value


def check_kind(key: str, value: object, kind: type[Kind]) -> Kind:
    """Return `value` if it is one of `kind`.

    Raises:
        PacketError: If it is not.
    """
    if not isinstance(value, kind):
        raise PacketError(f"{key}={value!r} should be of class {kind.__name__}, not {type(value).__name__}")
    return value


def check_items(key: str, value: object, kind: type[Kind]) -> tuple[Kind, ...]:
    """Return the items of a tuple or list, all of one kind; None stands for none.

    Raises:
        PacketError: If it is something else.
    """
    if value is None:
        return ()
    if not isinstance(value, tuple | list):
        raise PacketError(f"{key}={value!r} should be a tuple of {kind.__name__}, not {type(value).__name__}")
    return tuple([check_kind(f"{key}[{index}]", item, kind) for index, item in enumerate(value)])


def _check_layer(layer: LayerSpec) -> None:
    key = f"layer {check_name('layer_id', layer.layer_id)!r}"
    check_name(f"{key}: layer_type", layer.layer_type)
    if layer.activation_type is not None:
        check_name(f"{key}: activation_type", layer.activation_type)
    for name in ("input_channels", "output_channels", "num_parameters", "flops", "segment"):
        check_count(f"{key}: {name}", getattr(layer, name))
    rate: Any = layer.dropout_rate
    is_number = isinstance(rate, Real) and not isinstance(rate, bool)
    if not is_number or not 0.0 <= rate <= 1.0:
        raise PacketError(f"{key}: dropout_rate={rate!r} should be within 0…1")


def _check_slot(slot: SlotDescription, num_layers: int) -> None:
    key = f"slot {check_name('slot_id', slot.slot_id)!r}"
    check_count(f"{key}: channels", slot.channels)
    check_count(f"{key}: positions", slot.positions)
    if slot.layer_index is not None:
        check_index(f"{key}: layer_index", slot.layer_index, num_layers)


def _check_blueprint(blueprint: BlueprintSpec) -> None:
    key = f"blueprint {check_name('blueprint_id', blueprint.blueprint_id)!r}"
    check_index(f"{key}: place", blueprint.place, NUM_BLUEPRINT_PLACES)
    for name in ("channels", "positions", "num_parameters"):
        check_count(f"{key}: {name}", getattr(blueprint, name))


def _check_limits(limits: GrowthLimits) -> None:
    for name in ("max_seeds", "max_fossils", "max_developing", "min_prune_age_epochs"):
        check_count(f"limits.{name}", getattr(limits, name))
    for name, size in _CHOICES.items():
        for place in check_items(f"limits.{name}", getattr(limits, name), object):
            check_index(f"limits.{name}", place, size)


def _refuse_twice(what: str, ids: list[str]) -> None:
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise PacketError(f"{what} ids should differ, and {twice} stand twice")
