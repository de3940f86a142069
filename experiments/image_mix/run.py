"""Does a learned policy beat its baselines on image-mix? Trains, evaluates and tabulates; see README.md beside this file.

python experiments/image_mix/run.py --out runs/image_mix --jobs 2
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.distributed.config import read_run_config
from esper.distributed.session import evaluate_run, train_run

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG = Path(__file__).parents[2] / "configs" / "run" / "quick.yaml"
POLICY_SEEDS = 5
ROUNDS = 25
HOST_SEEDS = 20
CONTEXTS = {
    "eval": ["where/blind-fine@1", "texture/linear@1", "texture/wide@1", "digits/atten@1", "relation/blind@1"],
    "heldout": ["texture/atten@1", "relation/atten@1", "where/linear@1", "texture/linear@1.25", "digits/atten@1.25"],
}
BASELINES = ("random", "wait", "plateau", "gradient", "fixed")


def train(root: Path, seed: int, changes: Sequence[str]) -> Path:
    """Train one policy and note the CPU seconds; a run that is there already is taken as it is."""
    run_dir = root / f"seed-{seed}"
    if not (run_dir / "cost.json").exists():
        overrides = [f"seed={seed}", f"rollout.rounds={ROUNDS}", "evaluation.seeds_per_context=0", *changes]
        started = time.process_time()
        train_run(read_run_config(CONFIG, overrides), run_dir, local=True)
        (run_dir / "cost.json").write_text(json.dumps({"changes": list(changes), "cpu_sec": time.process_time() - started}))
    return run_dir


def evaluate(run_dir: Path, split: str, baselines: tuple[str, ...], engine: str | None = None) -> dict[str, Any]:
    """Play the policy of `run_dir`, and `baselines`, on the unseen hosts of `split`; an answer that is there already is kept.

    With an `engine` hosts are trained by that one instead of the run's.
    """
    names = "-".join(("learned", *baselines))
    file = run_dir / (f"{split}-{names}.json" if engine is None else f"{split}-by-{engine}.json")
    if not file.exists():
        evaluation = {"seeds_per_context": HOST_SEEDS, "baselines": list(baselines), "split": split, "contexts": CONTEXTS[split]}
        changes = {"evaluation": evaluation, "engine": {} if engine is None else {"kind": engine}}
        file.write_text(json.dumps(evaluate_run(run_dir, changes, checkpoint="latest", local=True)))
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def run_seed(root: Path, seed: int, split: str, engine: str | None, changes: Sequence[str]) -> None:
    """Train one policy and play it on unseen hosts; the first one also plays the baselines, which no policy changes."""
    run_dir = train(root, seed, changes)
    evaluate(run_dir, split, BASELINES if seed == 0 else ())
    if engine is not None:
        evaluate(run_dir, split, (), engine)


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--split", choices=("eval", "heldout"), default="eval")
    parser.add_argument("--engine", choices=("auto", "sequential", "population"), help="play every policy once more with this engine")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(POLICY_SEEDS), help="policy seeds; 0 also plays the baselines")
    parser.add_argument("changes", nargs="*", help="settings that differ from the quick run's, e.g. engine.kind=sequential")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        arguments = (options.split, options.engine, options.changes)
        for task in as_completed(pool.submit(run_seed, options.out, seed, *arguments) for seed in options.seeds):
            task.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
