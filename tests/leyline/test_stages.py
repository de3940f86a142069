"""The lifecycle's shape, transition by transition."""

from __future__ import annotations

from itertools import product

import pytest

from esper.leyline.stages import (
    VALID_TRANSITIONS,
    SeedStage,
    is_active_stage,
    is_failure_stage,
    is_terminal_stage,
    is_valid_transition,
    parse_stage,
)

LEGAL = {
    ("UNKNOWN", "DORMANT"),
    ("DORMANT", "GERMINATED"),
    ("GERMINATED", "TRAINING"),
    ("GERMINATED", "PRUNED"),
    ("TRAINING", "BLENDING"),
    ("TRAINING", "PRUNED"),
    ("BLENDING", "HOLDING"),
    ("BLENDING", "PRUNED"),
    ("HOLDING", "FOSSILIZED"),
    ("HOLDING", "BLENDING"),
    ("HOLDING", "PRUNED"),
    ("PRUNED", "EMBARGOED"),
    ("EMBARGOED", "RESETTING"),
    ("RESETTING", "DORMANT"),
}


@pytest.mark.parametrize(("start", "end"), list(product(SeedStage, SeedStage)))
def test_exactly_the_listed_transitions_are_legal(start: SeedStage, end: SeedStage) -> None:
    assert is_valid_transition(start, end) == ((start.name, end.name) in LEGAL)


def test_numbers_of_stages_are_stable() -> None:
    names = "UNKNOWN DORMANT GERMINATED TRAINING BLENDING SHADOWING HOLDING FOSSILIZED PRUNED EMBARGOED RESETTING"
    assert [s.name for s in sorted(SeedStage)] == names.split()
    assert [int(s) for s in sorted(SeedStage)] == list(range(11))


def test_every_failure_leads_back_to_dormancy() -> None:
    for stage in SeedStage:
        if not is_failure_stage(stage):
            continue
        for _ in range(len(SeedStage)):
            (stage,) = VALID_TRANSITIONS[stage]
            if stage is SeedStage.DORMANT:
                break
        assert stage is SeedStage.DORMANT


def test_every_growing_stage_can_be_given_up() -> None:
    for stage in (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.HOLDING):
        assert is_valid_transition(stage, SeedStage.PRUNED)


def test_only_fossils_are_terminal_and_predicates_do_not_overlap() -> None:
    assert [s for s in SeedStage if is_terminal_stage(s)] == [SeedStage.FOSSILIZED]
    assert [s.name for s in SeedStage if is_active_stage(s)] == ["TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"]
    assert not any(is_active_stage(s) and is_failure_stage(s) for s in SeedStage)


@pytest.mark.parametrize(
    ("text", "stage"),
    [("holding", SeedStage.HOLDING), ("PROBATIONARY", SeedStage.HOLDING), ("culled", SeedStage.PRUNED), (7, SeedStage.FOSSILIZED)],
)
def test_current_and_legacy_names_are_read(text: str | int, stage: SeedStage) -> None:
    assert parse_stage(text) is stage


@pytest.mark.parametrize("stage", [s for s in SeedStage if s is not SeedStage.SHADOWING])
def test_names_and_numbers_read_back(stage: SeedStage) -> None:
    assert parse_stage(stage.name) is stage
    assert parse_stage(int(stage)) is stage


@pytest.mark.parametrize("text", ["SHADOWING", 5, 11, -1, "TERMINATED", ""])
def test_retired_and_unknown_stages_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="DORMANT"):
        parse_stage(text)
