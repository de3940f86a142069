"""Lifecycle stages of a seed, and which stage may follow which.

The table is the whole truth about the lifecycle's shape; when a transition happens is decided elsewhere.
"""

from __future__ import annotations

from enum import IntEnum

STAGE_SCHEMA_VERSION = 1


class SeedStage(IntEnum):
    """Where a seed stands between dormancy and permanence."""

    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    SHADOWING = 5
    """Retired: no transition reaches it, and it is rejected on input."""
    HOLDING = 6
    FOSSILIZED = 7
    PRUNED = 8
    EMBARGOED = 9
    RESETTING = 10


VALID_TRANSITIONS: dict[SeedStage, tuple[SeedStage, ...]] = {
    SeedStage.UNKNOWN: (SeedStage.DORMANT,),
    SeedStage.DORMANT: (SeedStage.GERMINATED,),
    SeedStage.GERMINATED: (SeedStage.TRAINING, SeedStage.PRUNED),
    SeedStage.TRAINING: (SeedStage.BLENDING, SeedStage.PRUNED),
    SeedStage.BLENDING: (SeedStage.HOLDING, SeedStage.PRUNED),
    SeedStage.SHADOWING: (),
    SeedStage.HOLDING: (SeedStage.FOSSILIZED, SeedStage.BLENDING, SeedStage.PRUNED),
    SeedStage.FOSSILIZED: (),
    SeedStage.PRUNED: (SeedStage.EMBARGOED,),
    SeedStage.EMBARGOED: (SeedStage.RESETTING,),
    SeedStage.RESETTING: (SeedStage.DORMANT,),
}

ACTIVE_STAGES = frozenset({SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING, SeedStage.FOSSILIZED})
FAILURE_STAGES = frozenset({SeedStage.PRUNED, SeedStage.EMBARGOED, SeedStage.RESETTING})
DEVELOPING_STAGES = frozenset({SeedStage.GERMINATED, SeedStage.TRAINING}) | FAILURE_STAGES
"""Stages that count against the limit on seeds developed at once."""
LEGACY_STAGE_NAMES = {"PROBATIONARY": SeedStage.HOLDING, "CULLED": SeedStage.PRUNED}


def is_valid_transition(from_stage: SeedStage, to_stage: SeedStage) -> bool:
    """Say whether the table allows `from_stage` to be followed by `to_stage`."""
    return to_stage in VALID_TRANSITIONS[from_stage]


def is_terminal_stage(stage: SeedStage) -> bool:
    """Say whether nothing can follow `stage` in a seed's life."""
    return stage is SeedStage.FOSSILIZED


def is_active_stage(stage: SeedStage) -> bool:
    """Say whether a seed in `stage` has a module that computes."""
    return stage in ACTIVE_STAGES


def is_failure_stage(stage: SeedStage) -> bool:
    """Say whether a seed in `stage` has been given up."""
    return stage in FAILURE_STAGES


def parse_stage(value: str | int) -> SeedStage:
    """Read a stage from outside: current and legacy names, or the number.

    Raises:
        ValueError: If the stage is unknown or retired.
    """
    if isinstance(value, str):
        name = value.upper()
        stage = LEGACY_STAGE_NAMES.get(name) or SeedStage.__members__.get(name)
    else:
        stage = SeedStage(value) if value in SeedStage._value2member_map_ else None
    if stage is None or stage is SeedStage.SHADOWING:
        known = ", ".join(s.name for s in SeedStage if s is not SeedStage.SHADOWING)
        raise ValueError(f"stage {value!r} is not one of {known}")
    return stage
