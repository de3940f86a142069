"""Trials side by side: what they ask of their engines next is answered together."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from esper.leyline.reports import TrialReport
from esper.tolaria.engine.base import Call, Evaluate

if TYPE_CHECKING:
    from esper.tolaria.engine.base import Answer, Trainer
    from esper.tolaria.trial import Trial

Turn = Generator[Call, Any, TrialReport]
"""Part of an episode: yields what it needs of the engine, is sent the answer, and returns a report."""


def take_turns(turns: Mapping[Trial, Turn], trainer: Trainer) -> dict[Trial, TrialReport]:
    """Run turns side by side: what all of them ask for next is answered together, kind by kind.

    What fails in one member is raised in its own turn, which may deal with it. What no turn deals with is raised here, and says
    whose it is.
    """
    reports: dict[Trial, TrialReport] = {}
    waiting: dict[Trial, Call] = {}

    def resume(trial: Trial, answer: Answer | Exception | None) -> None:
        turn = turns[trial]
        try:
            waiting[trial] = turn.throw(answer) if isinstance(answer, Exception) else turn.send(answer)
        except StopIteration as stop:
            reports[trial] = stop.value
        except Exception as error:
            error.add_note(trial.whereabouts)
            raise

    for trial in turns:
        resume(trial, None)
    while waiting:
        kind = _kind(next(iter(waiting.values())))
        asking = [trial for trial, call in waiting.items() if _kind(call) == kind]
        try:
            answers = trainer.answer([(trial.engine, waiting.pop(trial)) for trial in asking])
        except Exception as error:
            error.add_note("\n".join(trial.whereabouts for trial in asking))
            raise
        for trial, answer in zip(asking, answers, strict=True):
            resume(trial, answer)
    return reports


def _kind(call: Call) -> tuple[str, str]:
    return type(call).__name__, call.split if isinstance(call, Evaluate) else ""
