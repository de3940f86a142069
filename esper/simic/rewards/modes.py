"""The reward modes: each turns two reports and the action between them into reward components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.reward import RewardComponents
from esper.leyline.stages import ACTIVE_STAGES, SeedStage
from esper.simic.rewards import contribution as credit
from esper.simic.rewards import rent, shaping, terminal
from esper.simic.rewards.utility import utility_change

if TYPE_CHECKING:
    from esper.leyline.reports import SeedStateReport, TrialReport
    from esper.simic.config import RewardConfig


def utility_mode(config: RewardConfig, before: TrialReport, after: TrialReport, gamma: float) -> RewardComponents:
    """γU' − U and, if asked for, rent by the epoch."""
    compute_rent = 0.0
    if config.epoch_rent > 0.0:
        compute_rent = rent.epoch_rent(
            after.seed_params,
            config.rent_reference_params or after.host_params,
            after.max_epochs,
            weight=config.epoch_rent,
            form=config.rent_form,
        )
    return RewardComponents(0.0, utility_change=utility_change(before, after, gamma, config), compute_rent=compute_rent)


def shaped_mode(config: RewardConfig, before: TrialReport, after: TrialReport, action: FactoredAction, *, gamma: float) -> RewardComponents:
    """Dense credit for every living seed, potentials, costs and the value of the action itself."""
    improvement = credit.clean_improvement(after)
    seeds = _judged_seeds(before, after, action)
    judged = [_judge(config, s, before=before, after=after, action=action, improvement=improvement) for s in seeds]
    attribution = sum(c.attribution for c in judged)
    interactions = credit.interaction_sum(after)
    target = before.slots[action.slot].seed if action.op is not LifecycleOp.WAIT else None
    return RewardComponents(
        0.0,
        bounded_attribution=attribution,
        ratio_penalty=sum(c.ratio_penalty for c in judged),
        compute_rent=rent.step_rent(
            after.seed_params,
            after.host_params,
            weight=config.step_rent_weight,
            cap=config.step_rent_cap,
            host_floor=config.rent_host_floor,
        ),
        occupancy_rent=rent.occupancy(_num_living(after), num_free=config.free_seeds, cost=config.occupancy_rent),
        fossilized_rent=-config.fossil_rent * after.num_fossils,
        alpha_shock=rent.alpha_shock(_alpha_changes(before, after), weight=config.alpha_shock_weight, cap=config.alpha_shock_cap),
        blending_warning=sum(terminal.stagnation_warning(s, improvement) for s in _seeds(after)),
        holding_warning=sum(c.holding_warning for c in judged),
        pbrs_bonus=shaping.potential_difference(before, after, gamma, config),
        synergy_bonus=credit.synergy(interactions, config.synergy_weight) if interactions is not None and attribution > 0.0 else 0.0,
        action_shaping=_action_value(config, action, target),
        fossilize_terminal_bonus=_fossilize_value(action, target, before),
        terminal_bonus=config.terminal_weight * after.committed_accuracy if after.done else 0.0,
        seed_contribution=_sum_measured([c.contribution for c in judged]),
        progress_since_germination=_sum_measured([c.progress for c in judged]),
        attribution_discount=credit.improvement_discount(improvement, config.improvement_steepness) if improvement is not None else None,
        timing_discount=min((c.timing for c in judged), default=None),
    )


@dataclass(frozen=True, slots=True)
class _SeedCredit:
    attribution: float
    ratio_penalty: float
    holding_warning: float
    contribution: float | None
    progress: float
    timing: float


def _judge(
    config: RewardConfig,
    seed: SeedStateReport,
    *,
    before: TrialReport,
    after: TrialReport,
    action: FactoredAction,
    improvement: float | None,
) -> _SeedCredit:
    measured = seed.metrics.contribution
    progress = after.val_accuracy - seed.metrics.accuracy_at_germination
    timing = credit.timing_discount(after.epoch - seed.age_epochs, floor=config.timing_floor, full_epoch=config.timing_epochs)
    is_named = action.op is not LifecycleOp.WAIT and before.slots[action.slot].slot_id == seed.slot_id
    attribution = penalty = 0.0
    if measured is not None:
        discount = credit.improvement_discount(improvement, config.improvement_steepness)
        attribution = config.contribution_weight * credit.bounded_contribution(measured, progress) * discount * timing
        penalty = credit.ratio_penalty(measured, improvement, discount)
        if is_named and action.op is LifecycleOp.PRUNE:
            attribution = -attribution
    held = _seed_in(before, seed.slot_id)
    settled = is_named and action.op in (LifecycleOp.PRUNE, LifecycleOp.FOSSILIZE)
    return _SeedCredit(
        attribution=attribution,
        ratio_penalty=penalty,
        holding_warning=terminal.indecision_warning(held, attribution, is_settled=settled) if held is not None else 0.0,
        contribution=measured,
        progress=progress,
        timing=timing,
    )


def _judged_seeds(before: TrialReport, after: TrialReport, action: FactoredAction) -> list[SeedStateReport]:
    """Living seeds as they are now, and a seed just pruned as it was; fossils earn nothing any more."""
    living = [s for s in _seeds(after) if s.stage in ACTIVE_STAGES and s.stage is not SeedStage.FOSSILIZED]
    pruned = before.slots[action.slot].seed if action.op is LifecycleOp.PRUNE else None
    if pruned is not None and all(s.seed_id != pruned.seed_id for s in living):
        living.append(pruned)
    return living


def _action_value(config: RewardConfig, action: FactoredAction, target: SeedStateReport | None) -> float:
    stage = target.stage if target is not None else SeedStage.DORMANT
    value = terminal.operation_cost(action.op, stage, config)
    if action.op is LifecycleOp.PRUNE and target is not None:
        value += terminal.prune_bonus(target.metrics.contribution, target.age_epochs)
    return value


def _fossilize_value(action: FactoredAction, target: SeedStateReport | None, before: TrialReport) -> float:
    if action.op is not LifecycleOp.FOSSILIZE or target is None:
        return 0.0
    return terminal.fossilize_bonus(target.metrics.contribution, credit.clean_improvement(before), target.epochs_in_stage)


def _seeds(report: TrialReport) -> list[SeedStateReport]:
    return [slot.seed for slot in report.slots if slot.seed is not None]


def _seed_in(report: TrialReport, slot_id: str) -> SeedStateReport | None:
    return next((seed for seed in _seeds(report) if seed.slot_id == slot_id), None)


def _num_living(report: TrialReport) -> int:
    return sum(
        s.stage is SeedStage.GERMINATED or (s.stage in ACTIVE_STAGES and s.stage is not SeedStage.FOSSILIZED) for s in _seeds(report)
    )


def _alpha_changes(before: TrialReport, after: TrialReport) -> list[float]:
    """Change of every slot's alpha; a slot without a seed has alpha 0."""
    old = {seed.slot_id: seed.alpha for seed in _seeds(before)}
    new = {seed.slot_id: seed.alpha for seed in _seeds(after)}
    return [new.get(slot_id, 0.0) - old.get(slot_id, 0.0) for slot_id in sorted(old.keys() | new.keys())]


def _sum_measured(values: list[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) if measured else None
