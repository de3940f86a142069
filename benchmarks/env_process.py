"""A process that plays what an environment actor plays, without Ray, and says what memory it holds; `bench_memory` starts it."""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from esper.distributed.config import RunConfig
    from esper.distributed.facts import RunFacts
    from esper.tolaria.trial import EpisodeRequest

MEASURES = {"Rss": "rss_mb", "Pss": "pss_mb", "Private_Dirty": "dirty_mb", "Private_Clean": "clean_mb"}
"""Lines of `smaps_rollup` and what they are called here."""
HEAVY = ("duckdb", "matplotlib", "pandas", "ray", "sklearn", "torch._dynamo", "torch_geometric", "wandb")
"""Modules that are worth a line in the result when they are loaded."""


class ForgettingSink:
    """Acknowledges what it is given and keeps nothing, as the queue's end is another process."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, int], int] = {}

    def fresh(self, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """All of them."""
        return list(batches)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Note the last number of each producer."""
        from esper.nissa.wire import identity_of

        for identity in map(identity_of, batches):
            self._marks[identity.source, identity.incarnation] = identity.seq

    def high_water_mark(self, source: str, incarnation: int) -> int:
        """Highest number seen."""
        return self._marks.get((source, incarnation), 0)

    def close(self) -> None:
        """Nothing is to be released."""


def memory() -> dict[str, float]:
    """What this process holds, in MB: resident, proportional, its own (`uss_mb`), and of these what it has written to.

    Raises:
        FileNotFoundError: On systems other than Linux.
    """
    amounts = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        if name in MEASURES:
            amounts[MEASURES[name]] = int(value.split()[0]) * 1024 / 1e6
    amounts["uss_mb"] = amounts["dirty_mb"] + amounts.pop("clean_mb")
    return amounts


def report() -> dict[str, Any]:
    """Memory, and which heavy modules are loaded."""
    return {"memory": memory(), "loaded": [name for name in HEAVY if name in sys.modules]}


def requests(config: RunConfig, count: int) -> list[EpisodeRequest]:
    """Episodes for so many environments, the contexts in turn."""
    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.registry import contexts
    from esper.tolaria.trial import EpisodeRequest

    seeds, known = SeedTree(config.seed), contexts(config.task, "train")
    return [EpisodeRequest(i, 0, "train", seeds.child("env", i), known[i % len(known)]) for i in range(count)]


def play(config: RunConfig, facts: RunFacts, folder: Path) -> dict[str, Any]:
    """Play every context once, so that all is loaded that an actor comes to need, then a group of trials; report while they live.

    A group begins as for learning, and is then played to its end by the random policy.
    """
    from esper.distributed import build
    from esper.distributed.env_worker import ScriptedSpec
    from esper.nissa.transport import InProcessTransport
    from esper.tolaria.tasks.registry import contexts

    build.prepare_process()
    emitter = build.make_emitter(config, "env-0", 1, InProcessTransport(ForgettingSink()), folder)
    worker = build.make_env_worker(config, facts, emitter)
    every_context = requests(config, len(contexts(config.task, "train")))
    for group in (*([request] for request in every_context), requests(config, config.rollout.num_envs)):
        worker.start(0, group)
        worker.play_scripted([ScriptedSpec("random")] * len(group), group)
    held = report()
    worker.close()
    return held


def main() -> None:
    """Import, play, print what is held as JSON, and stay until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=Path, help="pickled configuration and facts; without them, only torch is imported")
    arguments = parser.parse_args()
    if arguments.facts is None:
        import torch

        torch.set_num_threads(1)
        held = report()
    else:
        config, facts = pickle.loads(arguments.facts.read_bytes())
        with TemporaryDirectory() as folder:
            held = play(config, facts, Path(folder))
    print(json.dumps(held), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
