"""`esper doctor --engines`: how engines are chosen, what that rests on, and what comes of it for every preset's hosts."""

from __future__ import annotations

from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from esper.distributed.build import make_trial
from esper.distributed.config import config_from
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.tolaria.engine.choose import RULE, choose, host_size, read_results, read_table
from esper.tolaria.engine.layouts import LAYOUT_RULE, cpu_instructions
from esper.tolaria.engine.sequential import SequentialEngine
from esper.tolaria.tasks.presets import CUSTOM, presets
from esper.tolaria.tasks.registry import contexts
from esper.tolaria.trial import EpisodeRequest
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from esper.tolaria.engine.choose import Choice, Measurement

WIDTH = 100
"""Columns of the output."""
GPU_RULE = (
    "On a GPU hosts compute in full fp32 in both engines; engine.tf32=true lets both round what they multiply and convolve to TF32. "
    "engine.cuda_graphs=true records the training steps of hosts that run as one, and repeats them."
)
FEW = {"num_train": 8, "num_val": 8, "num_test": 8}
"""Samples that suffice to build a host."""


def explain_engines(data_dir: Path) -> str:
    """The measurements, the rules, and the choice for the hosts of every preset; nothing is started or changed."""
    table = read_table()
    parts = [
        *render_machine(read_results()),
        *render_table(table),
        "",
        *wrap(f"Rule: {RULE}", WIDTH),
        "",
        *wrap(f"Rule for hosts that run one by one (this CPU: {cpu_instructions()}): {LAYOUT_RULE}", WIDTH),
        "",
        *wrap(GPU_RULE, WIDTH),
        "",
        *_render_choices(table, data_dir),
    ]
    return "\n".join(parts)


def render_machine(results: Mapping[str, Any]) -> list[str]:
    """Where and when the table was measured."""
    machine, versions = results["machine"], results["versions"]
    load = f"load {machine['load_average'][0]:.1f} on {machine['cpus']} cores"
    text = f"Measured {machine['measured_on']} on {machine['cpu']}, {load}, torch {versions['torch']}, {machine['threads']} thread."
    return wrap(text, WIDTH)


def render_table(table: Sequence[Measurement]) -> list[str]:
    """How much faster hosts are as one, by their number: without seeds, then with one in every slot."""
    counts = sorted({row.num_members for row in table})
    head = f"{'host':<16}{'MACs':>8}{'values':>10}" + "".join(f"{f'K={count}':>11}" for count in counts)
    lines = [head]
    for host, rows in groupby(table, key=lambda row: row.host):
        own = {row.num_members: row for row in rows}
        first = next(iter(own.values()))
        cells = [f"{own[count].speedup:.2f} {own[count].grown_speedup:.2f}" if count in own else "-" for count in counts]
        lines.append(f"{host:<16}{first.macs:>8,}{first.values:>10,}" + "".join(f"{cell:>11}" for cell in cells))
    note = "K hosts as one: CPU one by one over CPU as one, an epoch and its validation; first without seeds, then with one in every slot."
    return [*lines, *wrap(note, WIDTH)]


def render_choice(choice: Choice) -> str:
    """A choice and what it rests on, in a few words."""
    row = choice.measurement
    manner = f"{choice.at_most} at once" if choice.runs_as_one else "one by one"
    return f"{manner}: {row.speedup:.2f} {row.grown_speedup:.2f} ({row.num_members} × {row.host})"


def _render_choices(table: Sequence[Measurement], data_dir: Path) -> list[str]:
    lines = [f"{'preset':<16}{'host':<28}{'alike':>5}  engine.kind=auto trains them"]
    for preset in presets():
        if preset.name != CUSTOM:
            lines += _render_preset(table, preset.name, data_dir)
    note = (
        "alike: at most rollout.envs_per_actor; hosts of one context play together as far as their number allows. A host of your own "
        "runs by itself. On a GPU whatever is alike runs as one."
    )
    return [*lines, *wrap(note, WIDTH)]


def _render_preset(table: Sequence[Measurement], name: str, data_dir: Path) -> list[str]:
    config = config_from({"task": {"preset": name, "data_dir": str(data_dir), **FEW}})
    alike = config.rollout.envs_per_actor
    lines, layouts = [], set()
    for context in contexts(config.task, "train"):
        try:
            trial = make_trial(config, Catalogue.standard(), EpisodeRequest(0, 0, "train", SeedTree(0), context))
        except (ConfigError, OSError):
            return [f"{name:<16}its data are not here"]
        engine = trial.engine
        choice = choose(table, host_size(engine), alike)
        lines.append(f"{name:<16}{context.name:<28}{alike:>5}  {render_choice(choice)}")
        if isinstance(engine, SequentialEngine):
            layouts.add(engine.layout.why)
    indent = " " * 16
    notes = [wrap(f"one by one: {why}", WIDTH, initial_indent=indent, subsequent_indent=indent) for why in sorted(layouts)]
    return [*lines, *(line for note in notes for line in note)]
