"""Compiled training beside eager training, as figures; a process of its own, because checked annotations cannot be compiled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812

from esper.leyline.actions import BlendStyle
from esper.tolaria.engine.compiled import Graphs, HostSteps, compile_run
from esper.tolaria.engine.layouts import LayoutChoice, lay_out
from tests.fakes.growth import begin_blending, begin_training, make_batch, make_model, randomise

if TYPE_CHECKING:
    from torch import Tensor

    from esper.kasmina.model import MorphogeneticModel
    from esper.tolaria.engine.compiled import Run


def grown(ticks: int) -> MorphogeneticModel:
    """One seed that learns unheard, one that is blended in by its gate, and one that is added."""
    model = make_model()
    begin_blending(model, 0, ticks=ticks, style=BlendStyle.GATED_GATE)
    begin_blending(model, 1, ticks=ticks)
    begin_training(model, 2)
    randomise(model, 2)
    return model.train()


def compare(*, is_bf16: bool) -> list[dict[str, Any]]:
    """Two hosts that are alike, by one collection of graphs: largest differences of logits and gradients."""
    done: list[Tensor] = []

    def make() -> Run:
        run = compile_run()

        def counted(*inputs: Any) -> Tensor:
            done.append(run(*inputs))
            return done[-1]

        return counted

    graphs = Graphs(make)
    choice = LayoutChoice("channels_last", "fp32", 0, must_pay=False, why="")
    x, y = make_batch()
    x = lay_out(x, "channels_last")
    rows = []
    for ticks in (1, 2):
        model = grown(ticks)
        steps = HostSteps(model, graphs)
        steps.begin_epoch(choice, batch_size=len(x), steps_left=10)
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = []
        for forward in (steps.forward, model):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = forward(x).float()
            found.append((logits, *torch.autograd.grad(F.cross_entropy(logits, y), parameters, allow_unused=True)))
        pairs = [(a, b) for a, b in zip(*found, strict=True) if a is not None or b is not None]
        worst = max(float((a - b).detach().abs().max() / (1e-3 + b.abs().max())) for a, b in pairs if a is not None and b is not None)
        rows.append({"worst": worst, "is_complete": all(a is not None and b is not None for a, b in pairs), "graphs": len(graphs)})
        rows[-1]["runs"] = len(done)
        done.clear()
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: compare(is_bf16=name == "bf16") for name in ("fp32", "bf16")}))
