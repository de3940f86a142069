"""Names from before: one table of events and payloads that were renamed, and how their contents are read today."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from esper.leyline.stages import LEGACY_STAGE_NAMES
from esper.leyline.telemetry.kasmina import SeedSnapshot
from esper.leyline.telemetry.payload import Payload
from esper.leyline.telemetry.simic import AnalyticsSnapshotPayload, RewardComputedPayload
from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.leyline.telemetry.tolaria import TolariaBatchPayload, TolariaEpochPayload, TolariaRollbackPayload

EpochCompletedPayload = TolariaEpochPayload
BatchEpochCompletedPayload = TolariaBatchPayload
GovernorRollbackPayload = TolariaRollbackPayload
PPOUpdatePayload = TamiyoPolicyUpdatePayload

TWIN_MESSAGE = "also told under its current name"
"""Message of an event that is emitted a second time under its old name; views leave such rows out."""


@dataclass(frozen=True, slots=True)
class LegacyName:
    """An event that was renamed together with its payload."""

    event: str
    """Old name."""
    current: str
    """Name today."""
    payload: str
    """Old name of the payload's class."""
    payload_class: type[Payload]
    dropped: frozenset[str] = frozenset()
    """Old fields that meant nothing; they are ignored on input."""


LEGACY_NAMES: Mapping[str, LegacyName] = MappingProxyType(
    {
        name.event: name
        for name in (
            LegacyName(
                "PPO_UPDATE_COMPLETED", "TAMIYO_POLICY_UPDATE", "PPOUpdatePayload", PPOUpdatePayload, dropped=frozenset({"inner_epoch"})
            ),
            LegacyName("EPOCH_COMPLETED", "TOLARIA_EPOCH_COMPLETED", "EpochCompletedPayload", EpochCompletedPayload),
            LegacyName("BATCH_EPOCH_COMPLETED", "TOLARIA_BATCH_COMPLETED", "BatchEpochCompletedPayload", BatchEpochCompletedPayload),
            LegacyName("GOVERNOR_ROLLBACK", "TOLARIA_ROLLBACK", "GovernorRollbackPayload", GovernorRollbackPayload),
        )
    }
)
"""Old event name → what became of it."""
LEGACY_NAME_OF: Mapping[str, str] = MappingProxyType({name.current: name.event for name in LEGACY_NAMES.values()})
"""Current event name → old one."""


def modernised(event: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of an event as today's payload has them.

    Args:
        event: The name under which it came, current or old, in capitals. An event under its current name is read strictly,
            but for what kept its name while its contents changed: stages, and snapshots that hold a reward's parts.
        values: Its payload as plain data.
    """
    legacy = LEGACY_NAMES.get(event)
    found = {key: value for key, value in values.items() if legacy is None or key not in legacy.dropped}
    reader = _READERS.get(event)
    if reader is not None:
        found = reader(found)
    return {key: LEGACY_STAGE_NAMES[value].name if _is_old_stage(key, value) else value for key, value in found.items()}


def _is_old_stage(key: str, value: Any) -> bool:
    return key in ("from_stage", "to_stage", "target_stage") and isinstance(value, str) and value in LEGACY_STAGE_NAMES


def _read_update(values: dict[str, Any]) -> dict[str, Any]:
    """Figures of a head were mappings; what is kept is their mean."""
    return {key: _mean(value) if key.startswith("head_") else value for key, value in values.items()}


def _mean(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return statistics.fmean(value.values()) if value else None


def _read_epoch(values: dict[str, Any]) -> dict[str, Any]:
    """Seeds were open mappings; what today's snapshot of a seed has no place for is left out."""
    seeds = values.get("seeds")
    if seeds is None:
        return values
    known = {f.name for f in fields(SeedSnapshot)}
    return values | {"seeds": {slot: {"seed_id": ""} | _renamed(seed, known) for slot, seed in seeds.items()}}


def _renamed(seed: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    named = {_SEED_FIELDS.get(key, key): value for key, value in seed.items()}
    return {key: _modern_stage(value) if key == "stage" else value for key, value in named.items() if key in known}


def _modern_stage(stage: Any) -> Any:
    return LEGACY_STAGE_NAMES[stage].name if stage in LEGACY_STAGE_NAMES else stage


def _read_snapshot(values: dict[str, Any]) -> dict[str, Any]:
    """The parts of a reward lay beside the rest; they are gathered in `reward_components`."""
    own = {f.name for f in fields(AnalyticsSnapshotPayload)}
    of_reward = {f.name for f in fields(RewardComputedPayload)} - own
    parts = {key: float(value) for key, value in values.items() if key in of_reward and _is_number(value)}
    rest = {key: value for key, value in values.items() if key not in of_reward}
    return rest | ({"reward_components": parts | dict(rest.get("reward_components") or {})} if parts else {})


def _read_matrix(values: dict[str, Any]) -> dict[str, Any]:
    """Configurations were flags in the order of the slots; today they name the slots."""
    slot_ids, configs = values.get("slot_ids"), values.get("configs")
    if slot_ids is None or configs is None:
        return values

    def read(config: Any) -> Any:
        if not isinstance(config, Mapping) or "seed_mask" not in config:
            return config
        slots_on = [slot for slot, is_on in zip(slot_ids, config["seed_mask"], strict=True) if is_on]
        return {"slots_on": slots_on, "accuracy": config["accuracy"]}

    return values | {"configs": [read(config) for config in configs]}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_SEED_FIELDS = {"params": "num_parameters", "seed_params": "num_parameters", "improvement": "accuracy_delta"}
_READERS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "PPO_UPDATE_COMPLETED": _read_update,
    "EPOCH_COMPLETED": _read_epoch,
    "ANALYTICS_SNAPSHOT": _read_snapshot,
    "COUNTERFACTUAL_MATRIX_COMPUTED": _read_matrix,
}
