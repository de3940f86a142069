from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.leyline.reports import Counterfactuals
from esper.leyline.stages import SeedStage
from esper.simic.suspicion import SUSPICIOUS_EPOCHS, SuspicionWatch, suspected_reward_hacking
from tests.simic.reports import make_report, make_seed

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport


def report(contribution: float | None, all_off: float, stage: SeedStage = SeedStage.HOLDING) -> TrialReport:
    seed = make_seed(contribution=contribution, stage=stage)
    return make_report(seed, val_accuracy=50.0, counterfactuals=Counterfactuals(((),), (all_off,)))


@pytest.mark.parametrize(
    ("contribution", "all_off", "pattern"),
    [(2.0, 51.0, "ransomware"), (12.0, 48.0, "attribution_ratio"), (2.0, 48.0, None), (None, 51.0, None), (0.05, 51.0, None)],
)
def test_credit_that_the_gain_does_not_explain_is_suspected(contribution: float | None, all_off: float, pattern: str | None) -> None:
    found = suspected_reward_hacking(report(contribution, all_off))
    assert [payload.pattern for payload in found] == ([pattern] if pattern else [])


@pytest.mark.parametrize("stage", [SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PRUNED, SeedStage.EMBARGOED])
def test_seeds_that_are_not_fully_heard_are_not_judged(stage: SeedStage) -> None:
    assert suspected_reward_hacking(report(2.0, 51.0, stage)) == ()


def test_nothing_is_suspected_without_counterfactuals() -> None:
    assert suspected_reward_hacking(make_report(make_seed(contribution=50.0, stage=SeedStage.HOLDING))) == ()


def test_a_suspicion_is_told_once_when_it_lasts() -> None:
    watch, sick, well = SuspicionWatch(), report(2.0, 51.0), report(2.0, 48.0)
    told = [len(watch.look(one)) for one in (*[sick] * (SUSPICIOUS_EPOCHS + 2), well, *[sick] * SUSPICIOUS_EPOCHS)]
    assert [index for index, count in enumerate(told) if count] == [SUSPICIOUS_EPOCHS - 1, len(told) - 1]


def test_chance_in_single_epochs_is_not_told() -> None:
    watch, sick, well = SuspicionWatch(), report(2.0, 51.0), report(2.0, 48.0)
    assert not any(watch.look(one) for one in [sick, sick, well] * 4)
