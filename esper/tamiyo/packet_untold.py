"""What a packet leaves open although the graph shows something: defaults that stand in channels without a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.packets import SlotDescription
from esper.leyline.signals import TENSOR_SCHEMA_SIZE, TensorSchema
from esper.leyline.stages import is_active_stage, is_terminal_stage
from esper.tamiyo.packet_seeds import shown_seed, untold_of
from esper.tamiyo.packet_values import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper.leyline.packets import HostDescription, SystemStatePacket
    from esper.leyline.reports import SlotReport, TrialReport
    from esper.leyline.stages import SeedStage
    from esper.tamiyo.coverage import Untold

_EVERYWHERE = np.ones((1, 1), dtype=bool)
_OF_LAYER = (
    "input_channels", "output_channels", "dropout_rate", "num_parameters", "flops", "parameter_share", "flops_share",
    "position", "is_last", "num_slots", "num_layers", "host_params",
)  # fmt: skip
_HOST: Untold = {
    "layer": dict.fromkeys(_OF_LAYER, _EVERYWHERE),
    "activation": dict.fromkeys(("computational_cost", "position"), _EVERYWHERE),
    "parameter": dict.fromkeys(("parameter_count", "parameter_count_score", "parameter_share", "position"), _EVERYWHERE),
    ("layer", "connects", "layer"): dict.fromkeys(("connection_strength", "data_flow_volume", "flops_share"), _EVERYWHERE),
}
"""What only the description of a host tells and no mask covers."""
_TELEMETRY_SIZE = 10
_IN_TELEMETRY = {"epochs_in_stage": 4, "accuracy_at_stage_start": 6, "alpha": 8, "max_epochs": 9}
"""Channels of a seed's telemetry that show these fields."""
_OF_SEED = {
    "age": ("age_epochs", "max_epochs"),
    "alpha_target": ("alpha_target",),
    "alpha_progress": ("alpha_progress",),
    "tempo": ("tempo_epochs",),
    "total_improvement": ("accuracy_at_germination",),
    "relative_parameters": ("num_parameters", "host_params"),
}
"""Feature → fields that it is computed from, any of which may be untold."""
_IN_SIGNALS = {
    TensorSchema.SEED_EPOCHS_IN_STAGE: "epochs_in_stage",
    TensorSchema.SEED_ALPHA: "alpha",
    TensorSchema.SEED_IMPROVEMENT: "accuracy_at_stage_start",
}
_OF_HORIZON = (TensorSchema.EPOCH, TensorSchema.GLOBAL_STEP, TensorSchema.SEED_EPOCHS_IN_STAGE)
"""Base features that are shares of all epochs."""


def untold_in(packet: SystemStatePacket, host: HostDescription | None, report: TrialReport) -> Untold:
    """What nobody told of the graph that is built from `report`, for `coverage_of`.

    Args:
        packet: What the training system says, as `check_packet` returned it.
        host: Its host; None if nobody described it.
        report: What `report_from_checked` made of the two.
    """
    states = {seed.seed_id: seed for seed in packet.seed_states}
    of_host = _untold_of_host(packet, host)
    gaps = [frozenset() if slot.seed is None else untold_of(states[slot.seed.seed_id], _place(slot), host) for slot in report.slots]
    of_seed = {slot.seed.seed_id: gap for slot, gap in zip(report.slots, gaps, strict=True) if slot.seed is not None}
    of_layer = dict(_HOST["layer"]) if host is None else {}
    open_features = {
        "epochs_left": "max_epochs" in of_host,
        "anomalies": report.verdict is None,
        "seed_growth": host is None or _is_sum_open("seed_params", packet, report, of_seed, is_active_stage),
        "fossil_growth": host is None or _is_sum_open("fossil_params", packet, report, of_seed, is_terminal_stage),
    }
    of_layer |= {name: _EVERYWHERE for name, is_open in open_features.items() if is_open}
    of_layer["signals"] = _signals(packet, report, of_seed, of_host)
    alpha = np.array([["alpha" in gap] for gap in gaps], dtype=bool).reshape(-1, 1)
    return {
        **(_HOST if host is None else {}),
        "layer": of_layer,
        "seed": _seeds(report, host, [gap | of_host for gap in gaps]),
        ("seed", "monitors", "layer"): {"alpha": alpha},
    }


def _untold_of_host(packet: SystemStatePacket, host: HostDescription | None) -> frozenset[str]:
    if host is not None:
        return frozenset()
    return frozenset({"host_params", "slots"} if packet.max_epochs is not None else {"host_params", "slots", "max_epochs"})


def _place(slot: SlotReport) -> SlotDescription:
    return SlotDescription(slot.slot_id, slot.layer_index, slot.channels, slot.positions)


def _is_sum_open(
    name: str, packet: SystemStatePacket, report: TrialReport, gaps: dict[str, frozenset[str]], counts: Callable[[SeedStage], bool]
) -> bool:
    """Whether a number of parameters is neither told nor the sum of ones that are."""
    if number(name, packet.training_metrics.get(name)) is not None:
        return False
    seeds = [slot.seed for slot in report.slots if slot.seed is not None]
    return any("num_parameters" in gaps[seed.seed_id] for seed in seeds if counts(seed.stage))


def _signals(packet: SystemStatePacket, report: TrialReport, gaps: dict[str, frozenset[str]], of_host: frozenset[str]) -> np.ndarray:
    untold = np.zeros((1, TENSOR_SCHEMA_SIZE), dtype=bool)
    untold[0, list(_OF_HORIZON)] = "max_epochs" in of_host
    if packet.signals is not None:
        return untold
    seed = shown_seed(report.slots)
    gap = frozenset() if seed is None else gaps[seed.seed_id]
    untold[0, TensorSchema.PLATEAU_EPOCHS] = True
    untold[0, TensorSchema.GLOBAL_STEP] |= packet.global_step is None
    untold[0, TensorSchema.AVAILABLE_SLOTS] = "slots" in of_host
    for feature, field in _IN_SIGNALS.items():
        untold[0, feature] |= field in gap
    return untold


def _seeds(report: TrialReport, host: HostDescription | None, gaps: list[frozenset[str]]) -> dict[str, np.ndarray]:
    described = set() if host is None else {slot.slot_id for slot in host.slots}
    is_stranger = _column(slot.slot_id not in described for slot in report.slots)
    is_lost = _column(host is None or (slot.layer_index is None and not slot.monitored_layers) for slot in report.slots)
    telemetry = np.zeros((len(gaps), _TELEMETRY_SIZE), dtype=bool)
    for field, channel in _IN_TELEMETRY.items():
        telemetry[:, channel] = [field in gap for gap in gaps]
    of_seed = {name: _column(any(field in gap for field in fields) for gap in gaps) for name, fields in _OF_SEED.items()}
    of_slot = {"channels": is_stranger, "positions": is_stranger, "position": is_lost, "monitoring_scope": is_lost}
    return {**of_slot, "telemetry": telemetry, **of_seed}


def _column(values: Iterable[bool]) -> np.ndarray:
    return np.array(list(values), dtype=bool)[:, None]
