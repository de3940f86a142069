"""Packets as reports, so that a service sees by the same graphs that the policy was trained on.

What a packet does not tell stays unmeasured. A number that is not finite counts as not told; what contradicts itself or the host
is a `PacketError`.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from esper.leyline.alpha import AlphaMode
from esper.leyline.host import LayerSpec
from esper.leyline.masks import ActionMasks, GrowthLimits, SlotView, compute_masks
from esper.leyline.packets import (
    LARGEST_COUNT,
    HostDescription,
    LayerState,
    PacketError,
    SlotDescription,
    SlotState,
    check_count,
)
from esper.leyline.reports import EpochTimings, LayerReport, SlotReport, TrialReport
from esper.leyline.schemas import GovernorVerdict
from esper.leyline.signals import FastTrainingSignals, pad_history
from esper.leyline.stages import SeedStage, is_active_stage
from esper.tamiyo.packet_check import check_packet
from esper.tamiyo.packet_seeds import Place, place_seeds, seed_report, shown_seed, watched_layers
from esper.tamiyo.packet_values import number, or_nan, ranged
from esper.tamiyo.registries import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.leyline.packets import SeedState, SystemStatePacket
    from esper.leyline.reports import SeedStateReport
    from esper.leyline.traits import OptimizerState

    State = TypeVar("State", LayerState, SlotState)

UNKNOWN_LAYER = LayerSpec(UNKNOWN, UNKNOWN, None, 0, 0, dropout_rate=0.0, num_parameters=0, flops=0, segment=0)
"""Stands for all layers of a host that was never described; the policy knows it by the embedding of `unknown`."""
_PERCENT = 100.0
_OF_LAYER = tuple(f.name for f in fields(LayerState) if f.name != "layer_id")
_OF_SLOT = tuple(f.name for f in fields(SlotState) if f.name != "slot_id")


def report_from_packet(packet: SystemStatePacket, host: HostDescription | None, *, limits: GrowthLimits) -> TrialReport:
    """The report that Esper's own training would have given. A packet needs no `check_packet` before it.

    Args:
        packet: What the training system says.
        host: What it trains; None stands for what the packet itself implies, see `implied_host`.
        limits: What the policy was trained under; the host's own go before them.

    Raises:
        PacketError: If the packet is none, or contradicts itself or the host.
    """
    return report_from_checked(check_packet(packet), host, limits=limits)


def report_from_checked(packet: SystemStatePacket, host: HostDescription | None, *, limits: GrowthLimits) -> TrialReport:
    """As `report_from_packet`, of what `check_packet` returned.

    Raises:
        PacketError: If the packet contradicts itself or the host.
    """
    epoch = check_count("current_epoch", packet.current_epoch)
    known = host or implied_host(packet, epoch)
    accuracy = ranged("validation_accuracy", packet.validation_accuracy, _PERCENT)
    if accuracy is None:
        raise PacketError(f"validation_accuracy={packet.validation_accuracy!r} should be a percentage")
    told = {name: number(f"training_metrics[{name!r}]", value) for name, value in packet.training_metrics.items()}
    seeds = packet.seed_states if host is not None else tuple(_unplaced(seed, known) for seed in packet.seed_states)
    places = place_seeds(seeds, known)
    slots = _slots(places, packet, known, accuracy)
    living = [slot.seed for slot in slots if slot.seed is not None]
    training_loss = number("training_loss", packet.training_loss)
    report = TrialReport(
        env_id=0,
        episode_idx=0,
        epoch=epoch,
        max_epochs=known.max_epochs if packet.max_epochs is None else check_count("max_epochs", packet.max_epochs, least=1),
        signals=FastTrainingSignals(),
        train_loss=training_loss if told.get("loss") is None else told["loss"],
        train_accuracy=ranged("training_metrics['training_accuracy']", told.get("training_accuracy"), _PERCENT),
        val_loss=or_nan(number("validation_loss", packet.validation_loss)),
        val_accuracy=accuracy,
        committed_accuracy=or_nan(ranged("training_metrics['committed_accuracy']", told.get("committed_accuracy"), _PERCENT)),
        host_params=sum(s.num_parameters for s in known.layers) if known.num_parameters is None else known.num_parameters,
        seed_params=_count("seed_params", told, [s for s in living if is_active_stage(s.stage)]),
        fossil_params=_count("fossil_params", told, [s for s in living if s.stage is SeedStage.FOSSILIZED]),
        learning_rate=told.get("learning_rate"),
        gradient_norm=told.get("gradient_norm"),
        layers=_layers(packet.layer_states, known),
        slots=slots,
        masks=_masks(places, slots, known, limits),
        transitions=(),
        counterfactuals=None,
        verdict=_verdict(told),
        timings=EpochTimings(None, None, samples_per_s=told.get("samples_per_s"), hook_latency_ms=told.get("hook_latency_ms")),
        done=False,
        optimizer=_optimizer(packet.optimizer),
    )
    return replace(report, signals=_signals(packet, report))


def implied_host(packet: SystemStatePacket, epoch: int) -> HostDescription:
    """A host of which only names are known: the layers and slots that the packet mentions, at least one layer, and no horizon."""
    layers = tuple(replace(UNKNOWN_LAYER, layer_id=state.layer_id) for state in packet.layer_states)
    slot_ids = [state.slot_id for state in packet.slot_states] + [s.slot_id for s in packet.seed_states if s.slot_id is not None]
    slots = tuple(SlotDescription(slot_id, None, 0, 0) for slot_id in dict.fromkeys(slot_ids))
    return HostDescription(layers or (UNKNOWN_LAYER,), slots, max_epochs=max(epoch, 1))


def _unplaced(seed: SeedState, host: HostDescription) -> SeedState:
    """The seed without what refers to layers that nobody described."""
    known = {layer.layer_id for layer in host.layers}
    return replace(seed, layer_depth=None, monitored_layers=tuple(name for name in seed.monitored_layers if name in known))


def _layers(states: Sequence[LayerState], host: HostDescription) -> tuple[LayerReport, ...]:
    found = _by_id("layer", {s.layer_id: s for s in states}, len(states), [spec.layer_id for spec in host.layers])
    return tuple(LayerReport(spec, **_measured(spec.layer_id, found.get(spec.layer_id), _OF_LAYER)) for spec in host.layers)


def _slots(places: Sequence[Place], packet: SystemStatePacket, host: HostDescription, accuracy: float) -> tuple[SlotReport, ...]:
    states = packet.slot_states
    found = _by_id("slot", {s.slot_id: s for s in states}, len(states), [place.slot.slot_id for place in places])
    return tuple(
        SlotReport(
            slot_id=place.slot.slot_id,
            layer_index=place.slot.layer_index,
            channels=place.slot.channels,
            positions=place.slot.positions,
            seed=None if place.seed is None else seed_report(place, place.seed, host, accuracy=accuracy),
            monitored_layers=() if place.seed is None else watched_layers(place.seed, host),
            **_measured(place.slot.slot_id, found.get(place.slot.slot_id), _OF_SLOT),
        )
        for place in places
    )


def _by_id(what: str, found: Mapping[str, State], num_states: int, known: Sequence[str]) -> Mapping[str, State]:
    if len(found) < num_states:
        raise PacketError(f"{what}_states should tell of each {what} once, got {num_states} for {sorted(map(str, found))}")
    strangers = sorted(map(str, found.keys() - set(known)))
    if strangers:
        raise PacketError(f"{what}_states tell of {strangers}, which are not among the host's: {list(known)}")
    return found


def _measured(name: str, state: LayerState | SlotState | None, measurements: Sequence[str]) -> dict[str, float | None]:
    if state is None:
        return dict.fromkeys(measurements)
    return {m: number(f"{name}: {m}", getattr(state, m)) for m in measurements}


def _masks(places: Sequence[Place], slots: Sequence[SlotReport], host: HostDescription, limits: GrowthLimits) -> ActionMasks:
    allowed = host.limits or limits
    if host.blueprints:
        offered = {spec.place for spec in host.blueprints}
        allowed = replace(allowed, blueprints=tuple(place for place in allowed.blueprints if place in offered))
    views = [
        SlotView(SeedStage.DORMANT, 0, AlphaMode.HOLD, gate_open=False)
        if slot.seed is None or place.seed is None
        else SlotView(slot.seed.stage, slot.seed.age_epochs, slot.seed.alpha_mode, gate_open=place.seed.is_gate_open)
        for place, slot in zip(places, slots, strict=True)
    ]
    return compute_masks(views, allowed)


def _count(name: str, told: Mapping[str, float | None], seeds: Sequence[SeedStateReport]) -> int:
    value = told.get(name)
    if value is None:
        return sum(seed.num_parameters for seed in seeds)
    if not 0 <= value <= LARGEST_COUNT:
        raise PacketError(f"training_metrics[{name!r}]={value!r} should be from 0 to 2**53")
    return round(value)


def _verdict(told: Mapping[str, float | None]) -> GovernorVerdict | None:
    anomalies = told.get("consecutive_anomalies")
    if anomalies is None:
        return None
    if not 0 <= anomalies <= LARGEST_COUNT:
        raise PacketError(f"training_metrics['consecutive_anomalies']={anomalies!r} should be from 0 to 2**53")
    return GovernorVerdict(panic=None, loss=math.nan, loss_threshold=None, consecutive_anomalies=round(anomalies))


def _optimizer(told: OptimizerState | None) -> OptimizerState | None:
    return None if told is None else replace(told, momentum=number("optimizer.momentum", told.momentum))


def _signals(packet: SystemStatePacket, report: TrialReport) -> FastTrainingSignals:
    """What the sender remembers, or else what this one moment tells; of several active seeds the youngest unfinished one is shown."""
    if packet.signals is not None:
        return packet.signals
    seed = shown_seed(report.slots)
    val_loss = None if math.isnan(report.val_loss) else report.val_loss
    return FastTrainingSignals(
        epoch=report.epoch,
        global_step=0 if packet.global_step is None else check_count("global_step", packet.global_step),
        train_loss=report.train_loss,
        val_loss=val_loss,
        train_accuracy=report.train_accuracy,
        val_accuracy=report.val_accuracy,
        loss_history=pad_history([] if val_loss is None else [val_loss]),
        accuracy_history=pad_history([report.val_accuracy]),
        has_active_seed=seed is not None,
        seed_stage=int(seed.stage) if seed else 0,
        seed_epochs_in_stage=seed.epochs_in_stage if seed else 0,
        seed_alpha=seed.alpha if seed else 0.0,
        seed_improvement=seed.metrics.improvement_since_stage_start if seed else None,
        available_slots=sum(slot.seed is None for slot in report.slots),
    )
