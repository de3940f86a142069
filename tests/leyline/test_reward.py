"""The parts of a reward and their names."""

from __future__ import annotations

from dataclasses import fields

from esper.leyline.reward import PARTS, RewardComponents
from esper.leyline.telemetry import RewardComputedPayload


def test_parts_are_fields_that_start_at_nothing() -> None:
    nothing = RewardComponents(total_reward=0.0)
    assert len(set(PARTS)) == len(PARTS)
    assert sum(getattr(nothing, part) for part in PARTS) == 0.0


def test_every_part_is_told_under_its_own_name() -> None:
    assert set(PARTS) <= {f.name for f in fields(RewardComputedPayload)}


def test_evidence_is_unmeasured_until_it_is_given() -> None:
    nothing = RewardComponents(total_reward=0.0)
    assert nothing.seed_contribution is nothing.utility is nothing.growth_ratio is None
