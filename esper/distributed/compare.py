"""Policies side by side: the same unseen hosts for each, with intervals for every mean and every difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.distributed.env_worker import ScriptedSpec
from esper.distributed.event_group import LEARNED
from esper.distributed.preflight import evaluated_contexts
from esper.distributed.requests import Groups, evaluation_episodes, in_groups, search_episodes
from esper.leyline.reports import EpisodeOutcome
from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode
from esper.simic.comparison import PairedComparison, PolicySummary, ScoreTable, summarise
from esper.simic.comparison import compare as compare_pair
from esper.simic.fixed_search import FixedPlanSearch, Plan

if TYPE_CHECKING:
    from esper.distributed.config import EvaluationConfig
    from esper.distributed.driver import Run

SEARCH_GENERATION = 32
"""Plans per generation of the fixed-schedule search."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every policy on the same episodes."""

    split: str
    decisions: str
    """How the learned policy decided: greedy or sampled."""
    outcomes: Mapping[str, tuple[EpisodeOutcome, ...]]
    """Policy → its episodes, paired across policies."""
    summaries: tuple[PolicySummary, ...]
    differences: tuple[PairedComparison, ...]
    """The learned policy against each baseline."""
    fixed_plan: Plan | None
    """What the search for a fixed schedule found."""
    fixed_episodes: int
    """Episodes that search played."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "split": self.split,
            "decisions": self.decisions,
            "summaries": [asdict(summary) for summary in self.summaries],
            "differences": [asdict(difference) for difference in self.differences],
            "fixed_plan": self.fixed_plan,
            "fixed_episodes": self.fixed_episodes,
            "outcomes": {policy: [asdict(outcome) for outcome in outcomes] for policy, outcomes in self.outcomes.items()},
        }


def compare(run: Run) -> Comparison:
    """Play the learned policy, as the settings want it to decide, and every baseline on unseen host seeds.

    Raises:
        InterruptedRound: If the user stopped it.
    """
    evaluation, rollout = run.config.evaluation, run.config.rollout
    groups = evaluation_episodes(
        evaluated_contexts(run.config.task, evaluation),
        evaluation.split,
        seeds_per_context=evaluation.seeds_per_context,
        root=evaluation.seed,
        group_size=rollout.envs_per_actor,
    )
    outcomes = {LEARNED: tuple(run.collector.play(groups, ActMode(evaluation.decisions)))}
    plan: Plan | None = None
    budget = 0
    for name in evaluation.baselines:
        if name == "fixed":
            budget = evaluation.fixed_budget or run.counts.episodes
            plan = search_fixed_plan(run, budget)
        outcomes[name] = play_scripted(run, ScriptedSpec(name, plan or ()), groups)
    return _summarise(outcomes, evaluation, plan, budget)


def play_scripted(run: Run, spec: ScriptedSpec, groups: Groups) -> tuple[EpisodeOutcome, ...]:
    """Play `groups` with one scripted policy."""
    return tuple(run.collector.play_scripted([(spec,) * len(group) for group in groups], groups))


def search_fixed_plan(run: Run, budget: int) -> Plan:
    """The best fixed schedule that a search finds in `budget` training episodes."""
    facts = run.facts
    seeds = SeedTree(run.config.seed).child("fixed-search")
    search = FixedPlanSearch(
        seeds.child("plans").numpy(),
        num_slots=len(facts.slot_ids),
        blueprints=facts.blueprints,
        num_epochs=facts.max_epochs,
        max_germinations=run.config.growth.max_fossils,
    )
    while search.num_episodes < budget:
        count = min(SEARCH_GENERATION, budget - search.num_episodes)
        specs = [ScriptedSpec("fixed", plan) for plan in search.ask(count)]
        groups = search_episodes(search.num_episodes, count, seeds, run.config.rollout.envs_per_actor)
        played = run.collector.play_scripted(in_groups(specs, run.config.rollout.envs_per_actor), groups)
        search.tell([outcome.utility for outcome in played])
    return search.best()


def _summarise(
    outcomes: Mapping[str, tuple[EpisodeOutcome, ...]], evaluation: EvaluationConfig, plan: Plan | None, budget: int
) -> Comparison:
    table = ScoreTable.from_scores({policy: _by_context(played) for policy, played in outcomes.items()})
    rng = np.random.default_rng(0)
    baselines = [policy for policy in outcomes if policy != LEARNED]
    return Comparison(
        split=evaluation.split,
        decisions=evaluation.decisions,
        outcomes=outcomes,
        summaries=summarise(table, rng),
        differences=tuple(compare_pair(table, LEARNED, baseline, rng=rng) for baseline in baselines),
        fixed_plan=plan,
        fixed_episodes=budget,
    )


def _by_context(outcomes: Sequence[EpisodeOutcome]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for outcome in outcomes:
        scores.setdefault(outcome.context, []).append(outcome.utility)
    return scores
