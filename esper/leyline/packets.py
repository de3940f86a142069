"""State of a training system on the wire, as a policy service receives it, and the host that it trains. None is unknown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

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
        """Refuse a host that cannot be.

        Raises:
            PacketError: If ids stand twice, a slot follows a layer that is not there, or a count is no count.
        """
        _refuse_twice("layer", [layer.layer_id for layer in self.layers])
        _refuse_twice("slot", [slot.slot_id for slot in self.slots])
        check_count("max_epochs", self.max_epochs, least=1)
        for layer in self.layers:
            for name in ("input_channels", "output_channels", "num_parameters", "flops", "segment"):
                check_count(f"layer {layer.layer_id!r}: {name}", getattr(layer, name))
        for slot in self.slots:
            check_count(f"slot {slot.slot_id!r}: channels", slot.channels)
            check_count(f"slot {slot.slot_id!r}: positions", slot.positions)
            if slot.layer_index is not None:
                check_index(f"slot {slot.slot_id!r}: layer_index", slot.layer_index, len(self.layers))


def check_count(key: str, value: object, *, least: int = 0) -> int:
    """Return `value` if it counts something.

    Raises:
        PacketError: If it is no whole number from `least` to 2⁵³.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_COUNT:
        raise PacketError(f"{key}={value!r} should be a whole number from {least} to 2**53")
    return value


def check_index(key: str, value: object, size: int) -> int:
    """Return `value` if it is an index below `size`.

    Raises:
        PacketError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
        raise PacketError(f"{key}={value!r} should be an index below {size}")
    return value


def _refuse_twice(what: str, ids: list[str]) -> None:
    twice = sorted({str(name) for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise PacketError(f"{what} ids should differ, and {twice} stand twice")
