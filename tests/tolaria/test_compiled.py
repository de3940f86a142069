from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from esper.tolaria.engine.compiled import MAX_GRAPHS_OF_A_HOST, Graphs, HostSteps, Visit, run_host, structure_of, visits_of
from esper.tolaria.engine.layouts import LayoutChoice
from tests.fakes.catalogue import Conv
from tests.fakes.growth import advance, begin_blending, begin_holding, begin_training, germinate, make_batch, make_model, randomise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import HostProtocol

ROOT = Path(__file__).parents[2]


class Compiler:
    """Makes functions that count, and compute as the real ones do."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.made = 0
        self.calls = 0
        self.error = error

    def make(self) -> Any:
        self.made += 1

        def run(host: HostProtocol, visits: Mapping[int, tuple[Visit, ...]], x: Tensor) -> Tensor:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return run_host(host, visits, x)

        return run


def steps_of(model: MorphogeneticModel, compiler: Compiler, graphs: Graphs | None = None) -> HostSteps:
    return HostSteps(model.train(), Graphs(compiler.make) if graphs is None else graphs)


def choice(after: int | None = 0, *, must_pay: bool = False) -> LayoutChoice:
    return LayoutChoice("contiguous", "fp32", after, must_pay, "as the test says")


def test_a_run_with_seeds_is_the_models_own_forward() -> None:
    model = make_model()
    begin_holding(model, 0)
    begin_blending(model, 1)
    begin_training(model, 2)
    randomise(model, 2)
    x, _ = make_batch()
    expected = model.train()(x)
    assert torch.allclose(run_host(model.host, visits_of(model), x), expected, atol=1e-6)
    assert not torch.allclose(run_host(model.host, {}, x), expected, atol=1e-3)


def test_gradients_are_the_models_own() -> None:
    model = make_model(isolate_blending=True)
    begin_blending(model, 1)
    begin_training(model, 2)
    x, _ = make_batch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for logits in (model.train()(x), run_host(model.host, visits_of(model), x)):
        found.append(torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.allclose(a, b, atol=1e-5))


def test_a_structure_does_not_depend_on_weights_or_on_how_far_a_seed_is_blended() -> None:
    one, other = make_model(), make_model()
    assert structure_of(one) == structure_of(other)
    begin_blending(one, 1, ticks=1)
    assert structure_of(one) != structure_of(other)
    begin_blending(other, 1, ticks=2)
    randomise(other, 1)
    assert one.seed_slots[1].alpha != other.seed_slots[1].alpha
    assert structure_of(one) == structure_of(other)


def test_off_never_compiles() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    steps.begin_epoch(choice(None), batch_size=6, steps_left=10)
    steps.forward(make_batch()[0])
    assert compiler.made == 0


def test_a_last_smaller_batch_stays_eager() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    for size in (6, 6, 4):
        steps.forward(make_batch(batch=size)[0])
    assert (compiler.made, compiler.calls) == (1, 2)


def test_compilation_waits_until_it_pays_and_only_if_as_much_is_to_come() -> None:
    for left, calls in ((10, 7), (6, 3), (5, 0)):
        compiler, model = Compiler(), make_model()
        steps = steps_of(model, compiler)
        steps.begin_epoch(choice(3, must_pay=True), batch_size=6, steps_left=left)
        for _ in range(left):
            steps.forward(make_batch()[0])
        assert compiler.calls == calls, left


def test_growth_brings_another_graph_and_the_first_one_is_found_again() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    x, _ = make_batch()
    for _ in range(2):
        steps.begin_epoch(choice(), batch_size=6, steps_left=10)
        steps.forward(x)
    model.apply(germinate(1), val_accuracy=20.0)
    model.apply(advance(1), val_accuracy=20.0)
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    steps.forward(x)
    assert (compiler.made, compiler.calls) == (2, 3)
    model.prune_all("test")
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    steps.forward(x)
    assert (compiler.made, compiler.calls) == (2, 4)


def test_hosts_share_graphs_and_only_so_many_are_kept() -> None:
    compiler = Compiler()
    graphs = Graphs(compiler.make, limit=2)
    x, _ = make_batch()
    for _ in range(2):
        steps = steps_of(make_model(), compiler, graphs)
        steps.begin_epoch(choice(), batch_size=6, steps_left=10)
        steps.forward(x)
    assert (compiler.made, len(graphs)) == (1, 1)
    for name in ("a", "b", "c", "a"):
        graphs.run_for(name)
    assert (compiler.made, len(graphs)) == (5, 2)


def test_a_host_has_only_so_many_graphs_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    with caplog.at_level(logging.WARNING):
        for size in range(2, MAX_GRAPHS_OF_A_HOST + 5):
            steps.begin_epoch(choice(), batch_size=size, steps_left=10)
            x, _ = make_batch(batch=size)
            for _ in range(2):
                assert torch.equal(steps.forward(x), model(x))
    assert (compiler.made, compiler.calls) == (MAX_GRAPHS_OF_A_HOST, 2 * MAX_GRAPHS_OF_A_HOST)
    assert len(caplog.records) == 1


def test_what_cannot_be_compiled_runs_eagerly_and_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    compiler, model = Compiler(error=RuntimeError("no compiler\nlong story")), make_model()
    steps = steps_of(model, compiler)
    x, _ = make_batch()
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(steps.forward(x), model(x))
    assert (compiler.made, compiler.calls) == (1, 1)
    assert [record.getMessage() for record in caplog.records] == ["a training step cannot be compiled and stays eager: no compiler"]


def test_a_seed_that_computes_otherwise_than_when_it_was_compiled_goes_on_eagerly() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    x, _ = make_batch()
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    steps.forward(x)
    compiler.error = TorchDynamoException("cannot be compiled again")
    for _ in range(2):
        assert torch.equal(steps.forward(x), model(x))
    assert (compiler.made, compiler.calls) == (1, 2)


def test_a_pruned_seed_is_let_go_though_nothing_is_compiled_any_more() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    begin_training(model, 1)
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    seeds = [weakref.ref(module) for module in model.slots.modules() if isinstance(module, Conv)]
    model.prune_all("test")
    steps.begin_epoch(choice(None), batch_size=6, steps_left=10)
    gc.collect()
    assert [seed() for seed in seeds] == [None]


def test_what_fails_in_a_compiled_step_is_raised() -> None:
    compiler, model = Compiler(), make_model()
    steps = steps_of(model, compiler)
    x, _ = make_batch()
    steps.begin_epoch(choice(), batch_size=6, steps_left=10)
    steps.forward(x)
    compiler.error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        steps.forward(x)


@pytest.mark.slow
def test_the_real_compiler_agrees_and_serves_hosts_that_are_alike() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.tolaria.compiling"], capture_output=True, text=True, check=True, cwd=ROOT)
    for name, rows in json.loads(done.stdout.splitlines()[-1]).items():
        for row in rows:
            assert (row["graphs"], row["runs"], row["is_complete"]) == (1, 1, True), name
            assert row["worst"] < {"fp32": 1e-4, "bf16": 0.1}[name], name
