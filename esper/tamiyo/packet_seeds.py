"""Seeds as packets describe them: where each one grows, and its state as the lifecycle would report it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING

from esper.leyline.actions import NUM_BLUEPRINT_PLACES
from esper.leyline.alpha import BLENDING_METHODS, AlphaCurve, AlphaMode, BlendOperator
from esper.leyline.packets import PacketError, SeedState, SlotDescription, check_count, check_index
from esper.leyline.reports import SeedMetrics, SeedStateReport
from esper.leyline.stages import SeedStage, is_active_stage, parse_stage
from esper.leyline.traits import SeedTraits
from esper.tamiyo.packet_values import fraction, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from enum import IntEnum

    from esper.leyline.packets import HostDescription
    from esper.leyline.reports import SlotReport
    from esper.leyline.schemas import BlueprintSpec

UNKNOWN_PLACE = -1
"""Place of a blueprint that nobody named."""
_MEASURED = ("gradient_health", "gradient_ratio", "contribution", "solo_contribution")
_CLAIMS = ("has_vanishing", "has_exploding")
_WITH_DEFAULT = ("epochs_in_stage", "age_epochs", "alpha_target", "alpha_progress", "tempo_epochs")
_PAST = ("accuracy_at_germination", "accuracy_at_stage_start")


@dataclass(frozen=True, slots=True)
class Place:
    """One slot, and the seed that a packet puts there."""

    slot: SlotDescription
    seed: SeedState | None
    stage: SeedStage


def place_seeds(seeds: tuple[SeedState, ...], host: HostDescription) -> list[Place]:
    """The host's slots in order, then one for every seed that none of them is known to hold.

    A seed belongs to the slot that it names, else to the one slot behind the layer of its depth, if no other seed is there.

    Raises:
        PacketError: If a seed stands twice, names a slot, layer or stage that is not there, or a slot that another one holds.
    """
    holders: dict[str, SeedState] = {}
    unbound: list[SeedState] = []
    stages = {seed.seed_id: _stage(seed) for seed in seeds}
    if len(stages) < len(seeds):
        raise PacketError(f"seed ids should differ, got {[seed.seed_id for seed in seeds]}")
    named = {seed.slot_id for seed in seeds if seed.slot_id is not None}
    for seed in seeds:
        slot_id = seed.slot_id if seed.slot_id is not None else _slot_at_depth(seed, host, taken=named | holders.keys())
        if slot_id is None:
            unbound.append(seed)
        elif slot_id in holders:
            raise PacketError(f"seeds {holders[slot_id].seed_id!r} and {seed.seed_id!r} both claim slot {slot_id!r}")
        else:
            holders[slot_id] = seed
    known = {slot.slot_id for slot in host.slots}
    strangers = sorted(map(str, holders.keys() - known))
    if strangers:
        raise PacketError(f"slots {strangers} of the seeds are not among the host's: {sorted(known)}")
    ambiguous = sorted(seed.seed_id for seed in unbound if seed.seed_id in known)
    if ambiguous:
        raise PacketError(f"seeds {ambiguous} stand in no known slot, yet have the id of one; they should name the slot that they grow in")
    places = [(slot, holders.get(slot.slot_id)) for slot in host.slots]
    places += [(SlotDescription(seed.seed_id, seed.layer_depth, 0, 0), seed) for seed in unbound]
    living = [(slot, None if seed is None or stages[seed.seed_id] is SeedStage.DORMANT else seed) for slot, seed in places]
    return [Place(slot, seed, SeedStage.DORMANT if seed is None else stages[seed.seed_id]) for slot, seed in living]


def watched_layers(seed: SeedState, host: HostDescription) -> tuple[int, ...]:
    """Indices of the layers that a seed names, ascending.

    Raises:
        PacketError: If the host has no such layer.
    """
    if not seed.monitored_layers:
        return ()
    index = {layer.layer_id: i for i, layer in enumerate(host.layers)}
    strangers = sorted({str(name) for name in seed.monitored_layers if name not in index})
    if strangers:
        raise PacketError(f"seed {seed.seed_id!r}: monitored_layers {strangers} are not among the host's: {list(index)}")
    return tuple(sorted({index[name] for name in seed.monitored_layers}))


def seed_report(place: Place, seed: SeedState, host: HostDescription, *, accuracy: float) -> SeedStateReport:
    """The seed as the lifecycle would report it.

    Where nothing is told: accuracies of the past are the current one, so that no change is claimed; alpha is 1 for a fossil and
    else 0, its target 1; ages are 0, and a fossil or seed of unknown blueprint has no parameters.

    Args:
        place: Where it grows.
        seed: What the packet says of it.
        host: What it grows in.
        accuracy: Current validation accuracy in percent.

    Raises:
        PacketError: If a value is impossible.
    """
    key = f"seed {seed.seed_id!r}"
    told = {name: number(f"{key}: metrics[{name!r}]", value) for name, value in seed.metrics.items()}
    in_stage = check_count(f"{key}: epochs_in_stage", 0 if seed.epochs_in_stage is None else seed.epochs_in_stage)
    alpha = told.get("alpha") if seed.alpha is None else seed.alpha
    blueprint = _blueprint(seed, place.slot, host)
    return SeedStateReport(
        seed_id=seed.seed_id,
        slot_id=place.slot.slot_id,
        blueprint_id=seed.blueprint_id or "",
        blueprint_place=blueprint[0],
        stage=place.stage,
        epochs_in_stage=in_stage,
        age_epochs=in_stage if seed.age_epochs is None else check_count(f"{key}: age_epochs", seed.age_epochs),
        num_parameters=blueprint[1],
        alpha=fraction(f"{key}: alpha", alpha, float(place.stage is SeedStage.FOSSILIZED)),
        alpha_target=fraction(f"{key}: alpha_target", seed.alpha_target, 1.0),
        alpha_mode=AlphaMode(_member(f"{key}: alpha_mode", seed.alpha_mode, AlphaMode)),
        alpha_progress=fraction(f"{key}: alpha_progress", seed.alpha_progress, 1.0),
        operator=BlendOperator(_member(f"{key}: operator", seed.operator, BlendOperator)),
        tempo_epochs=check_count(f"{key}: tempo_epochs", 0 if seed.tempo_epochs is None else seed.tempo_epochs),
        metrics=_metrics(seed, told, accuracy),
        traits=_traits(seed),
    )


def untold_of(seed: SeedState, slot: SlotDescription, host: HostDescription | None) -> frozenset[str]:
    """Fields of a seed's report, and of its metrics, where a default stands because nobody told a value.

    Args:
        seed: What a packet says of it, found sound by `seed_report`.
        slot: Where it grows.
        host: What it grows in; None if nobody described it.
    """
    told: dict[str, object] = {name: getattr(seed, name) for name in _WITH_DEFAULT}
    told |= {name: seed.metrics.get(name) for name in _PAST}
    told["alpha"] = seed.metrics.get("alpha") if seed.alpha is None else seed.alpha
    told["num_parameters"] = _num_parameters(seed, slot, () if host is None else host.blueprints)
    return frozenset(name for name, value in told.items() if number(name, value) is None)


def shown_seed(slots: Sequence[SlotReport]) -> SeedStateReport | None:
    """The one of several active seeds that the base features tell of: the youngest that is no fossil yet."""
    active = [slot.seed for slot in slots if slot.seed is not None and is_active_stage(slot.seed.stage)]
    return min(active, key=lambda seed: (seed.stage is SeedStage.FOSSILIZED, seed.age_epochs), default=None)


def _stage(seed: SeedState) -> SeedStage:
    told: object = seed.stage
    if isinstance(told, bool) or not isinstance(told, str | Integral):
        raise PacketError(f"seed {seed.seed_id!r}: stage {told!r} should be a stage, its name or its number")
    try:
        return parse_stage(told if isinstance(told, str) else int(told))
    except ValueError as error:
        raise PacketError(f"seed {seed.seed_id!r}: {error}") from error


def _slot_at_depth(seed: SeedState, host: HostDescription, *, taken: set[str]) -> str | None:
    if seed.layer_depth is None:
        return None
    check_index(f"seed {seed.seed_id!r}: layer_depth", seed.layer_depth, len(host.layers))
    free = [slot.slot_id for slot in host.slots if slot.layer_index == seed.layer_depth and slot.slot_id not in taken]
    return free[0] if len(free) == 1 else None


def _blueprint(seed: SeedState, slot: SlotDescription, host: HostDescription) -> tuple[int, int]:
    """Place and number of parameters."""
    key = f"seed {seed.seed_id!r}"
    offers = [spec for spec in host.blueprints if spec.blueprint_id == seed.blueprint_id]
    place = seed.blueprint_place if seed.blueprint_place is not None else next((spec.place for spec in offers), None)
    if place is not None:
        check_index(f"{key}: blueprint_place", place, NUM_BLUEPRINT_PLACES)
    count = _num_parameters(seed, slot, offers)
    return UNKNOWN_PLACE if place is None else place, 0 if count is None else check_count(f"{key}: num_parameters", count)


def _num_parameters(seed: SeedState, slot: SlotDescription, offers: Sequence[BlueprintSpec]) -> int | None:
    """What the packet tells, else that of its blueprint at its slot."""
    if seed.num_parameters is not None:
        return seed.num_parameters
    wanted = (seed.blueprint_id, slot.channels, slot.positions)
    return next((spec.num_parameters for spec in offers if (spec.blueprint_id, spec.channels, spec.positions) == wanted), None)


def _metrics(seed: SeedState, told: dict[str, float | None], accuracy: float) -> SeedMetrics:
    def past(name: str) -> float:
        value = told.get(name)
        return accuracy if value is None else value

    claims = {name: None if told.get(name) is None else bool(told[name]) for name in _CLAIMS}
    return SeedMetrics(
        accuracy_at_germination=past("accuracy_at_germination"),
        accuracy_at_stage_start=past("accuracy_at_stage_start"),
        current_val_accuracy=past("current_val_accuracy"),
        best_val_accuracy=past("best_val_accuracy"),
        gradient_norm=number(f"seed {seed.seed_id!r}: gradient_norm", seed.gradient_norm),
        has_vanishing=claims["has_vanishing"],
        has_exploding=claims["has_exploding"],
        **{name: told.get(name) for name in _MEASURED},
    )


def _traits(seed: SeedState) -> SeedTraits | None:
    """What is told, checked; None if nothing is."""
    key, told = f"seed {seed.seed_id!r}", seed.traits or SeedTraits()
    strangers = [m for m in told.allowed_blending_methods or () if m not in BLENDING_METHODS]
    if strangers:
        raise PacketError(f"{key}: allowed_blending_methods {strangers} are not among {', '.join(BLENDING_METHODS)}")
    curve = told.alpha_schedule
    checked = replace(
        told,
        activity_level=number(f"{key}: activity_level", told.activity_level),
        success_rate=number(f"{key}: success_rate", told.success_rate),
        risk_tolerance=number(f"{key}: risk_tolerance", told.risk_tolerance),
        monitoring_frequency=number(f"{key}: monitoring_frequency", told.monitoring_frequency),
        risk_score=number(f"{key}: risk_score", told.risk_score if seed.risk_score is None else seed.risk_score),
        adaptation_trigger_threshold=number(f"{key}: adaptation_trigger_threshold", told.adaptation_trigger_threshold),
        learning_rate=number(f"{key}: learning_rate", told.learning_rate if seed.learning_rate is None else seed.learning_rate),
        alpha_schedule=None if curve is None else AlphaCurve(_member(f"{key}: alpha_schedule", curve, AlphaCurve)),
    )
    return None if checked == SeedTraits() else checked


def _member(key: str, value: object, kind: type[IntEnum]) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) not in {int(m) for m in kind}:
        raise PacketError(f"{key}={value!r} should be one of {', '.join(kind.__members__)}")
    return int(value)
