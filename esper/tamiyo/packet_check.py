"""Whether a packet is made of what its contract names, before anything is read from it.

Senders reach a service over wires that carry no types. Here None becomes empty where several things are told, and whatever is of
another kind becomes a `PacketError`. What the values mean, and whether they agree, is checked where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from esper.leyline.packets import (
    PACKET_VERSION,
    LayerState,
    PacketError,
    SeedState,
    SlotState,
    SystemStatePacket,
    check_count,
    check_items,
    check_kind,
    check_name,
)
from esper.leyline.signals import HISTORY_LENGTH, FastTrainingSignals, History
from esper.leyline.traits import OptimizerState, SeedTraits

_COUNTS = ("epoch", "global_step", "plateau_epochs", "seed_stage", "seed_epochs_in_stage", "available_slots")
_HISTORIES = ("loss_history", "accuracy_history")


def check_packet(packet: object) -> SystemStatePacket:
    """Return the packet with tuples where several things are told, and plain numbers in its signals.

    Raises:
        PacketError: If it is of another version, or something in it is of another kind than its contract names.
    """
    packet = check_kind("packet", packet, SystemStatePacket)
    version: object = packet.version
    if version != PACKET_VERSION:
        raise PacketError(f"version={version!r} of the packet cannot be read; this is version {PACKET_VERSION}")
    check_name("packet_id", packet.packet_id)
    _check_optional_name("training_run_id", packet.training_run_id)
    seeds = check_items("seed_states", packet.seed_states, SeedState)
    layers = check_items("layer_states", packet.layer_states, LayerState)
    slots = check_items("slot_states", packet.slot_states, SlotState)
    for index, layer in enumerate(layers):
        check_name(f"layer_states[{index}]: layer_id", layer.layer_id)
    for index, slot in enumerate(slots):
        check_name(f"slot_states[{index}]: slot_id", slot.slot_id)
    if packet.optimizer is not None:
        _check_optional_name("optimizer.family", check_kind("optimizer", packet.optimizer, OptimizerState).family)
    return replace(
        packet,
        training_metrics=_mapping("training_metrics", packet.training_metrics),
        seed_states=tuple([_seed(f"seed_states[{index}]", seed) for index, seed in enumerate(seeds)]),
        layer_states=layers,
        slot_states=slots,
        signals=None if packet.signals is None else _signals(check_kind("signals", packet.signals, FastTrainingSignals)),
    )


def _seed(key: str, seed: SeedState) -> SeedState:
    check_name(f"{key}: seed_id", seed.seed_id)
    _check_optional_name(f"{key}: slot_id", seed.slot_id)
    _check_optional_name(f"{key}: blueprint_id", seed.blueprint_id)
    _check_flag(f"{key}: is_gate_open", seed.is_gate_open)
    if seed.traits is not None:
        _check_traits(f"{key}: traits", check_kind(f"{key}: traits", seed.traits, SeedTraits))
    metrics = _mapping(f"{key}: metrics", seed.metrics)
    watched = check_items(f"{key}: monitored_layers", seed.monitored_layers, str)
    if metrics is seed.metrics and watched == seed.monitored_layers:
        return seed
    return replace(seed, metrics=metrics, monitored_layers=watched)


def _check_traits(key: str, traits: SeedTraits) -> None:
    _check_optional_name(f"{key}.specialization", traits.specialization)
    _check_optional_name(f"{key}.policy_version", traits.policy_version)
    if traits.quarantine_only is not None:
        _check_flag(f"{key}.quarantine_only", traits.quarantine_only)
    check_items(f"{key}.allowed_blending_methods", traits.allowed_blending_methods, str)


def _check_optional_name(key: str, value: object) -> None:
    if value is not None:
        check_name(key, value)


def _check_flag(key: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise PacketError(f"{key}={value!r} should be True or False")


def _mapping(key: str, value: object) -> Mapping[str, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PacketError(f"{key}={value!r} should be a map from names to numbers, not {type(value).__name__}")
    return value


def _signals(signals: FastTrainingSignals) -> FastTrainingSignals:
    """The same with numbers of Python's own; unlike elsewhere NaN stays, which the base features take for the worst value."""
    _check_flag("signals.has_active_seed", signals.has_active_seed)
    told: dict[str, Any] = {}
    for name in FastTrainingSignals._fields:
        key, value = f"signals.{name}", getattr(signals, name)
        if name in _COUNTS:
            told[name] = check_count(key, value)
        elif name in _HISTORIES:
            told[name] = _history(key, value)
        elif name != "has_active_seed":
            told[name] = _level(key, value)
    return signals._replace(**told)


def _history(key: str, value: object) -> History:
    items = check_items(key, value, object)
    if len(items) != HISTORY_LENGTH:
        raise PacketError(f"{key}={value!r} should hold {HISTORY_LENGTH} numbers or None")
    a, b, c, d, e = (_level(f"{key}[{index}]", item) for index, item in enumerate(items))
    return (a, b, c, d, e)


def _level(key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise PacketError(f"{key}={value!r} should be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise PacketError(f"{key} should be a number within ±1.8e308") from error
