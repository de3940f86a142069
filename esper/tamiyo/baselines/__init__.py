"""Policies without learning, to compare with: wait, random, plateau heuristic, gradient score, fixed schedule."""

from esper.tamiyo.baselines.fixed import FixedSchedule, Germination
from esper.tamiyo.baselines.gradient import GradientPolicy
from esper.tamiyo.baselines.heuristic import HeuristicPolicy, HeuristicRules
from esper.tamiyo.baselines.random import RandomPolicy
from esper.tamiyo.baselines.wait import WaitPolicy

__all__ = [
    "FixedSchedule",
    "Germination",
    "GradientPolicy",
    "HeuristicPolicy",
    "HeuristicRules",
    "RandomPolicy",
    "WaitPolicy",
]
