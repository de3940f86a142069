"""Names from before: one table of events and payloads that were renamed, and how their contents are read today."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
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
"""Message of an event that is emitted a second time under its old name; of the views `raw_events` alone shows such rows."""


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
            but for what kept its name while its contents changed: stages, snapshots that hold a reward's parts, states of slots
            beside a reward, and masks of configurations.
        values: Its payload as plain data.

    Raises:
        ValueError: If a configuration's mask does not fit the slots.
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
    return values if not isinstance(seeds, Mapping) else values | {"seeds": {slot: _snapshot(seed) for slot, seed in seeds.items()}}


def _read_reward(values: dict[str, Any]) -> dict[str, Any]:
    """So were states of slots beside a reward; one that names its seed is of today."""
    states = values.get("slot_states")
    if not isinstance(states, Mapping):
        return values
    read = {slot: state if isinstance(state, Mapping) and "seed_id" in state else _snapshot(state) for slot, state in states.items()}
    return values | {"slot_states": read}


def _snapshot(seed: Any) -> Any:
    if not isinstance(seed, Mapping):
        return seed
    known = {f.name for f in fields(SeedSnapshot)}
    named = {_SEED_FIELDS.get(key, key): value for key, value in seed.items()}
    return {"seed_id": ""} | {key: _modern_stage(value) if key == "stage" else value for key, value in named.items() if key in known}


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

    def read(index: int, config: Any) -> Any:
        if not isinstance(config, Mapping) or "seed_mask" not in config:
            return config
        mask = config["seed_mask"]
        if not isinstance(mask, Sequence) or len(mask) != len(slot_ids):
            where = f"CounterfactualMatrixPayload.configs[{index}].seed_mask"
            raise ValueError(f"{where} should have {len(slot_ids)} flags, one for each of slot_ids, got {mask!r}")
        slots_on = [slot for slot, is_on in zip(slot_ids, mask, strict=True) if is_on]
        return {"slots_on": slots_on} | {key: config[key] for key in ("accuracy",) if key in config}

    return values | {"configs": [read(index, config) for index, config in enumerate(configs)]}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_SEED_FIELDS = {"params": "num_parameters", "seed_params": "num_parameters", "improvement": "accuracy_delta"}
_READERS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "PPO_UPDATE_COMPLETED": _read_update,
    "EPOCH_COMPLETED": _read_epoch,
    "ANALYTICS_SNAPSHOT": _read_snapshot,
    "REWARD_COMPUTED": _read_reward,
    "COUNTERFACTUAL_MATRIX_COMPUTED": _read_matrix,
}
