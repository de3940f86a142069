"""From the runs of `run.py` to the tables of README.md: results.json, results.md and the picture of the first run.

python experiments/image_mix/tabulate.py --runs runs/image_mix
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from esper.karn.queries import learning_curve
from esper.karn.store import Store

HERE = Path(__file__).parent
LEARNED = "learned"
NUM_RESAMPLES = 10_000
LAST_ROUNDS = 5


def read(runs: Path, split: str) -> tuple[np.ndarray, dict[str, np.ndarray], list[str], dict[str, Any]]:
    """Utilities of the learned policies [P, C, S] and of each baseline [C, S], context names, and the first run's comparison."""
    files = sorted(runs.glob(f"seed-*/{split}-learned*.json"))
    played = [json.loads(file.read_text()) for file in files]
    first = next(p for p in played if len(p["outcomes"]) > 1)
    contexts = list(dict.fromkeys(outcome["context"] for outcome in first["outcomes"][LEARNED]))
    learned = np.stack([utilities(p["outcomes"][LEARNED], contexts) for p in played])
    baselines = {name: utilities(outcomes, contexts) for name, outcomes in first["outcomes"].items() if name != LEARNED}
    return learned, baselines, contexts, first


def utilities(outcomes: list[dict[str, Any]], contexts: list[str]) -> np.ndarray:
    """[C, S] in the order of host seeds."""
    return np.array([[o["utility"] for o in outcomes if o["context"] == context] for context in contexts])


def difference(learned: np.ndarray, baseline: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean of learned [P, C, S] − baseline, [C, S] or one for each policy, with a 95 % interval.

    The interval resamples policy seeds, and host seeds within each context.
    """
    num_policies, num_contexts, num_seeds = learned.shape
    paired = learned - baseline
    draws = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        policies = rng.integers(num_policies, size=num_policies)
        hosts = rng.integers(num_seeds, size=(num_contexts, num_seeds))
        draws[i] = paired[policies][:, np.arange(num_contexts)[:, None], hosts].mean()
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(paired.mean()), "low": float(low), "high": float(high)}


def explained_variance(run_dir: Path) -> float:
    """Mean over the last rounds, of the values that were used to collect each."""
    with Store.open(run_dir) as store:
        values = [point.explained_variance for point in learning_curve(store) if point.explained_variance is not None]
    return statistics.fmean(values[-LAST_ROUNDS:])


def tabulate(runs: Path, split: str) -> dict[str, Any]:
    """What the README states of these runs."""
    learned, baselines, contexts, first = read(runs, split)
    rng = np.random.default_rng(0)
    return {
        "split": split,
        "policy_seeds": len(learned),
        "host_seeds_per_context": learned.shape[2],
        "contexts": {
            context: {LEARNED: float(learned[:, c].mean()), **{name: float(scores[c].mean()) for name, scores in baselines.items()}}
            for c, context in enumerate(contexts)
        },
        "learned_by_policy_seed": [float(scores.mean()) for scores in learned],
        "means": {LEARNED: float(learned.mean()), **{name: float(scores.mean()) for name, scores in baselines.items()}},
        "differences": {name: difference(learned, scores, rng) for name, scores in baselines.items()},
        "fixed_plan": first["fixed_plan"],
        "fixed_episodes": first["fixed_episodes"],
        "explained_variance_last_rounds": [explained_variance(file.parent) for file in sorted(runs.glob("seed-*/report.md"))],
        "training_cost": [json.loads(file.read_text()) for file in sorted(runs.glob("seed-*/cost.json"))],
    }


def against(runs: Path, others: Path, split: str) -> dict[str, float]:
    """Mean utility of the learned policies of `runs` minus that of `others`, with a 95 % interval.

    Both resample their own policy seeds, and host seeds within each context together, since the hosts are the same.
    """
    own, other = (read(folder, split)[0] for folder in (runs, others))
    rng = np.random.default_rng(0)
    contexts = np.arange(own.shape[1])[:, None]
    draws = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        hosts = rng.integers(own.shape[2], size=own.shape[1:])
        means = [side[rng.integers(len(side), size=len(side))][:, contexts, hosts].mean() for side in (own, other)]
        draws[i] = means[0] - means[1]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(own.mean() - other.mean()), "low": float(low), "high": float(high)}


def by_engine(runs: Path, split: str, engine: str) -> dict[str, Any]:
    """What changes for each policy where `engine` trains the hosts, host by host, with a 95 % interval of the mean."""
    learned, _, contexts, _ = read(runs, split)
    files = sorted(runs.glob(f"seed-*/{split}-by-{engine}.json"))
    again = np.stack([utilities(json.loads(file.read_text())["outcomes"][LEARNED], contexts) for file in files])
    return {
        "engine": engine,
        "by_policy_seed": again.mean((1, 2)).tolist(),
        "spread": (again - learned).std((1, 2)).tolist(),
        **difference(again, learned, np.random.default_rng(0)),
    }


def as_markdown(results: dict[str, Any]) -> str:
    """The README's tables."""
    policies = list(results["means"])
    lines = ["| context | " + " | ".join(policies) + " |", "|---" * (len(policies) + 1) + "|"]
    for context, means in results["contexts"].items():
        lines.append(f"| {context} | " + " | ".join(f"{means[policy]:.1f}" for policy in policies) + " |")
    lines.append("| **mean** | " + " | ".join(f"**{results['means'][policy]:.1f}**" for policy in policies) + " |")
    lines += ["", "| learned − | mean U | 95 % CI |", "|---|---|---|"]
    lines += [f"| {name} | {d['mean']:+.1f} | [{d['low']:+.1f}, {d['high']:+.1f}] |" for name, d in results["differences"].items()]
    by_seed = ", ".join(f"{value:.1f}" for value in results["learned_by_policy_seed"])
    variances = ", ".join(f"{value:.2f}" for value in results["explained_variance_last_rounds"])
    lines += [
        "",
        f"Learned, by policy seed: {by_seed}.",
        f"Explained variance, mean of the last {LAST_ROUNDS} rounds, by policy seed: {variances}.",
    ]
    costs = ", ".join(f"{cost['cpu_sec']:.0f}" for cost in results["training_cost"])
    changes = ", ".join(dict.fromkeys(change for cost in results["training_cost"] for change in cost["changes"])) or "none"
    lines.append(f"CPU seconds of training, by policy seed: {costs}; settings that differ from the quick run's: {changes}.")
    if "against" in results:
        d = results["against"]
        lines.append(f"These learned policies − those of the other runs: {d['mean']:+.1f} U, 95 % [{d['low']:+.1f}, {d['high']:+.1f}].")
    if "by_engine" in results:
        d = results["by_engine"]
        by_seed = ", ".join(f"{value:.1f} (±{spread:.1f})" for value, spread in zip(d["by_policy_seed"], d["spread"], strict=True))
        lines.append(f"With engine {d['engine']}, by policy seed (± standard deviation of the change over hosts): {by_seed}.")
        lines.append(f"Change: {d['mean']:+.2f} U, 95 % [{d['low']:+.2f}, {d['high']:+.2f}].")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder that run.py wrote")
    parser.add_argument("--split", choices=("eval", "heldout"), default="eval")
    parser.add_argument("--against", type=Path, help="folder of other runs, to compare the learned policies with")
    parser.add_argument("--engine", help="also tell what changed where `run.py --engine` played the policies again")
    options = parser.parse_args()
    results = tabulate(options.runs, options.split)
    if options.against:
        results["against"] = against(options.runs, options.against, options.split)
    if options.engine:
        results["by_engine"] = by_engine(options.runs, options.split, options.engine)
    (HERE / f"results-{options.split}.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / f"results-{options.split}.md").write_text(as_markdown(results))
    shutil.copy(options.runs / "seed-0" / "report.png", HERE / "report.png")
    print(as_markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
