"""What a sweep found: the best trial and its settings as a run file, the picture, the page, and the confirmation's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import yaml

from esper.distributed.config import write_run_config
from esper.distributed.executor import RunFailedError
from esper.distributed.sweep.layout import SweepDir
from esper.distributed.sweep.search import DEFAULT, FIRST_SEED, WINNER, stored_sweep
from esper.distributed.sweep.space import nested
from esper.karn.report.importance import ImportanceReport, estimate_importance
from esper.karn.report.sweep_page import SweepPage, write_page
from esper.karn.report.sweep_plots import Axis, plot_sweep, positions, table_of
from esper.karn.sweeps import SweepStore
from esper.simic.comparison import Estimate, PairedComparison, PolicySummary, ScoreTable, compare, summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.distributed.sweep.config import Sweep
    from esper.distributed.sweep.space import Parameter
    from esper.karn.sweeps import SweepTrialTable

FULL_FRAC = 0.95
"""Of the most environment steps any trial had: a trial that got so far may be the best."""


@dataclass(frozen=True)
class Confirmation:
    """Winner against default on seeds that the sweep never played."""

    summaries: tuple[PolicySummary, ...]
    difference: PairedComparison
    num_seeds: int


def write_report(folder: SweepDir) -> SweepTrialTable:
    """Write picture, page and best settings of a sweep, finished or not, and print where they lie.

    Returns:
        The best trial.

    Raises:
        RunFailedError: If no trial has a result yet.
    """
    sweep = stored_sweep(folder)
    metric = sweep.config.metric
    trials = SweepStore(folder.database).trials()
    played = [trial for trial in trials if trial.results]
    best = best_trial(trials, metric, sweep.config.mode)
    write_run_config(sweep.run_config(best.parameters), folder.best)
    importance, at_round = importance_of(sweep, trials)
    axes = [_axis(parameter) for parameter in sweep.space.parameters]
    plot_sweep(played, axes, folder.picture, metric=metric, best_id=best.record.trial_id, importance=importance)
    confirmation = read_confirmation(folder)
    ranked = sorted(trials, key=lambda trial: _rank(trial, best, metric, sweep.config.mode))
    page = SweepPage(
        title=f"Sweep {sweep.name}",
        facts=_facts(sweep, trials, best),
        picture=folder.picture,
        picture_text=f"Parallel coordinates of {len(played)} trials, {metric} over environment steps, and parameter importance",
        notes=_notes(sweep, trials, importance, at_round),
        rows=table_of(ranked, sweep.space.keys, metric),
        best_settings=yaml.safe_dump(nested(best.parameters), sort_keys=False),
        best_command=f"esper train --config {folder.best}",
        confirmation=_confirmation_rows(confirmation) if confirmation else (),
        confirmation_notes=_confirmation_notes(confirmation) if confirmation else (),
    )
    write_page(page, folder.report)
    last = best.last
    assert last is not None
    print(f"best: trial {best.record.number}, {metric} {getattr(last, metric):.2f} after {last.rounds} rounds")
    for line in _confirmation_notes(confirmation) if confirmation else ():
        print(line)
    for name, path in {"database": folder.database, "settings": folder.best, "picture": folder.picture, "report": folder.report}.items():
        print(f"{name:<11} {path}")
    return best


def best_trial(trials: Sequence[SweepTrialTable], metric: str, mode: str) -> SweepTrialTable:
    """The best last value among the trials that got as far as any: early values of stopped ones are not comparable.

    Raises:
        RunFailedError: If no trial has a result.
    """
    played = [(trial, trial.last) for trial in trials if trial.last is not None]
    if not played:
        raise RunFailedError("no trial of this sweep has a result yet")
    furthest = max(last.env_steps for _, last in played)
    full = [trial for trial, last in played if last.env_steps >= FULL_FRAC * furthest or trial.record.status == "completed"]
    sign = 1.0 if mode == "max" else -1.0
    return max(full, key=lambda trial: sign * float(getattr(trial.last, metric)))


def importance_of(sweep: Sweep, trials: Sequence[SweepTrialTable]) -> tuple[ImportanceReport, int | None]:
    """Importance of every parameter, from the metric at the last round that all trials played; and that round."""
    if sweep.config.scheduler.kind == "pbt":
        return ImportanceReport(
            reason="population based training changes parameters within a trial, so that no value can be given to one"
        ), None
    played = [trial for trial in trials if trial.results]
    at_round = min((trial.results[-1].rounds for trial in played), default=0)
    scores = [getattr(result, sweep.config.metric) for trial in played for result in trial.results if result.rounds == at_round]
    axes = [_axis(parameter) for parameter in sweep.space.parameters]
    return estimate_importance(sweep.space.keys, positions(axes, played), np.array(scores, dtype=np.float64)), at_round


def read_confirmation(folder: SweepDir) -> Confirmation | None:
    """The statistics of a finished confirmation; None if there is none."""
    target = SweepDir(folder.confirmation)
    if not target.database.exists():
        return None
    scores: dict[str, dict[int, float]] = {WINNER: {}, DEFAULT: {}}
    for trial in SweepStore(target.database).trials():
        value = trial.last.evaluation_utility if trial.last else None
        if value is not None:
            arm = WINNER if set(trial.parameters) - {"seed"} else DEFAULT
            scores[arm][trial.parameters["seed"]] = value
    seeds = sorted(scores[WINNER].keys() & scores[DEFAULT].keys())
    return confirmation_of({arm: [by_seed[seed] for seed in seeds] for arm, by_seed in scores.items()}) if len(seeds) > 1 else None


def confirmation_of(scores: Mapping[str, list[float]]) -> Confirmation:
    """Bootstrap intervals over seeds; both arms have the same seeds in the same order."""
    table = ScoreTable.from_scores({arm: {"all": values} for arm, values in scores.items()})
    rng = np.random.default_rng(0)
    return Confirmation(summarise(table, rng), compare(table, WINNER, DEFAULT, rng=rng), len(scores[WINNER]))


def _axis(parameter: Parameter) -> Axis:
    if parameter.kind == "choice":
        return Axis(parameter.key, options=parameter.values)
    low, high = parameter.values
    return Axis(parameter.key, low, high, is_log=parameter.kind == "loguniform")


def _rank(trial: SweepTrialTable, best: SweepTrialTable, metric: str, mode: str) -> tuple[bool, int, float]:
    if trial.last is None:
        return (True, 0, 0.0)
    sign = -1.0 if mode == "max" else 1.0
    return (trial is not best, -trial.last.rounds, sign * float(getattr(trial.last, metric)))


def _facts(sweep: Sweep, trials: Sequence[SweepTrialTable], best: SweepTrialTable) -> dict[str, str]:
    config = sweep.config
    counts = {status: sum(trial.record.status == status for trial in trials) for status in ("completed", "stopped", "failed", "running")}
    return {
        "optimised": f"{config.metric}, {config.mode}",
        "search": f"{config.search}, seed {config.seed}",
        "scheduler": config.scheduler.kind,
        "trials": ", ".join(f"{count} {status}" for status, count in counts.items() if count) + f" of {config.num_trials}",
        "at once": "as many as fit" if config.max_concurrent is None else str(config.max_concurrent),
        "best": f"trial {best.record.number}, in trials/{best.record.trial_id}",
    }


def _notes(sweep: Sweep, trials: Sequence[SweepTrialTable], importance: ImportanceReport, at_round: int | None) -> list[str]:
    notes = [
        f"The best value of {len(trials)} noisy ones is flattered by luck: confirm it on further seeds with esper sweep report --confirm N."
    ]
    if importance.reason is not None:
        notes.append(f"Importance of parameters is not estimated: {importance.reason}.")
    else:
        notes.append(
            f"Importance: random forest on {sweep.config.metric} at round {at_round}, the last that every trial played; "
            f"R² on held-out trials {importance.r_squared:.2f}."
        )
        if not importance.is_trustworthy:
            notes.append("The forest predicts held-out trials no better than their mean, so that the order of the bars means nothing.")
    if sweep.config.scheduler.kind == "pbt":
        notes.append("Parameters are those that a trial ended with; its weights come from other values before, which the database lists.")
    notes += [f"Trial {trial.record.number} failed: {trial.record.error}" for trial in trials if trial.record.status == "failed"]
    return notes


def _confirmation_rows(confirmation: Confirmation) -> list[dict[str, str]]:
    return [
        {
            "settings": summary.policy,
            "seeds": str(confirmation.num_seeds),
            "utility on unseen hosts [95 % CI]": _interval(summary.mean),
            "interquartile mean [95 % CI]": _interval(summary.iqm),
        }
        for summary in confirmation.summaries
    ]


def _confirmation_notes(confirmation: Confirmation) -> list[str]:
    pair = confirmation.difference
    verdict = "the difference is real at this level" if pair.is_significant else "no difference is shown: the interval holds 0"
    if pair.difference.low is None:
        verdict = "no difference is shown: one seed gives no interval"
    return [
        f"{WINNER} − {DEFAULT}: {_interval(pair.difference)} U on {confirmation.num_seeds} seeds from run.seed + {FIRST_SEED}, "
        f"better in {100 * pair.probability_of_improvement.value:.0f} % of pairs; {verdict}."
    ]


def _interval(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"
