"""Compiling is an option that may fail; deciding may not."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from esper.leyline.rng import SeedTree
from esper.tamiyo import TamiyoGNNConfig, TamiyoPolicy
from esper.tamiyo.compiling import DISABLED
from tests.tamiyo.graphs import SMALL, random_batch

if TYPE_CHECKING:
    from collections.abc import Callable

COMPILED = replace(SMALL, compile=True)


def make_policy(config: TamiyoGNNConfig) -> TamiyoPolicy:
    with SeedTree(0).torch_scope():
        return TamiyoPolicy(config).eval()


def refuses(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    raise RuntimeError("no compiler on this machine\nand a long trace")


def breaks_when_called(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def compiled(*arguments: Any) -> Any:
        raise ValueError("backend cannot lower this")

    return compiled


def breaks_later(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    calls = []

    def compiled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise MemoryError
        return function(*arguments)

    return compiled


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (refuses, "RuntimeError: no compiler on this machine"),
        (breaks_when_called, "ValueError: backend cannot lower this"),
        (breaks_later, "MemoryError: no message"),
    ],
)
def test_a_failure_is_logged_once_and_the_eager_network_goes_on(
    fake: Callable[..., Any], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = random_batch(np.random.default_rng(0), 3)
    expected = make_policy(SMALL).act(batch, None)
    monkeypatch.setattr(torch, "compile", fake)
    with caplog.at_level(logging.INFO):
        policy = make_policy(COMPILED)
        outputs = [policy.act(batch, None) for _ in range(4)]
    lines = [r for r in caplog.records if DISABLED in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].getMessage() == f"tamiyo_gnn_compile_disabled reason={reason}"
    assert lines[0].__dict__["reason"] == reason
    assert not policy.is_compiled
    assert policy.compile_warm_ms is None
    for output in outputs:
        np.testing.assert_array_equal(output.actions, expected.actions)
        np.testing.assert_array_equal(output.value, expected.value)


def test_compiled_code_is_warmed_up_used_and_left_out_of_learning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[dict[str, Any]] = []

    def compile_it(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def compiled(*arguments: Any) -> Any:
            calls.append(options)
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_it)
    policy = make_policy(COMPILED)
    assert policy.is_compiled
    assert policy.compile_warm_ms is not None
    assert policy.compile_warm_ms > 0
    assert calls == [{"dynamic": True, "mode": "reduce-overhead"}]
    batch = random_batch(np.random.default_rng(1), 2)
    actions = policy.act(batch, None).actions
    policy.inspect(batch)
    assert len(calls) == 3
    policy.evaluate(batch, actions)
    assert len(calls) == 3
    assert not caplog.records


def test_a_fault_of_the_observation_is_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    policy = make_policy(COMPILED)
    batch = random_batch(np.random.default_rng(2), 2)
    beyond = {e: index + 1000 for e, index in batch.edges.items()}
    with pytest.raises((IndexError, RuntimeError)):
        policy.act(replace(batch, edges=beyond), None)


def test_nothing_is_compiled_unless_asked_for() -> None:
    policy = make_policy(SMALL)
    assert not policy.is_compiled
    assert policy.compile_warm_ms is None


def test_the_compiler_is_not_imported_unless_asked_for() -> None:
    code = """
import sys
import numpy as np
from esper.tamiyo import TamiyoPolicy
from tests.tamiyo.graphs import SMALL, random_batch
TamiyoPolicy(SMALL).eval().act(random_batch(np.random.default_rng(0), 2), None)
print([m for m in ("torch._dynamo", "torch._inductor", "torch_geometric") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def precision() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_deciding_leaves_the_precision_of_other_networks_alone(device: str) -> None:
    before = precision()
    policy = make_policy(replace(SMALL, device=device))
    batch = random_batch(np.random.default_rng(4), 2)
    policy.evaluate(batch, policy.act(batch, None).actions)
    policy.inspect(batch)
    assert precision() == before


@pytest.mark.slow
def test_compiled_and_eager_decide_alike() -> None:
    """In a process of its own: the tests' shape checks cannot be compiled."""
    code = """
import numpy as np
from tests.tamiyo.test_compiling import COMPILED, SMALL, make_policy, random_batch
policy, eager = make_policy(COMPILED), make_policy(SMALL)
batch = random_batch(np.random.default_rng(3), 3)
print(policy.is_compiled, float(np.abs(policy.act(batch, None).value - eager.act(batch, None).value).max()), policy.is_compiled)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    was_compiled, difference, is_compiled = done.stdout.split()
    assert was_compiled == is_compiled == "True"
    assert float(difference) < 1e-4


@pytest.mark.slow
def test_the_first_decisions_find_their_code_compiled() -> None:
    """In a process of its own, as above; what may be reused does not depend on the backend, and this one compiles nothing."""
    code = """
from dataclasses import replace
import numpy as np, torch, torch._dynamo
from tests.tamiyo.test_compiling import COMPILED, make_policy
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report
from esper.tamiyo import GraphBuilder
torch._dynamo.config.error_on_recompile = True
compiler = torch.compile
torch.compile = lambda function, **options: compiler(function, dynamic=True, backend="eager")
counts = torch._dynamo.utils.counters["stats"]
policy = make_policy(replace(COMPILED, dropout=0.1))
print(counts["unique_graphs"])
builder = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH)
for size in (4, 2):
    policy.act(builder.build([busy_report(np.random.default_rng(seed), num_slots=size) for seed in range(size)]), None)
print(counts["unique_graphs"], policy.is_compiled)
torch._dynamo.config.error_on_recompile = False
policy.run_on("cpu", is_compiled=True, group_size=1)
torch._dynamo.config.error_on_recompile = True
print(counts["unique_graphs"])
policy.act(builder.build([busy_report(np.random.default_rng(9))]), None)
print(counts["unique_graphs"], policy.is_compiled)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "True", "2", "2", "True"]


@pytest.mark.gpu
def test_the_gpu_decides_as_the_cpu_does() -> None:
    on_gpu = make_policy(replace(SMALL, device="cuda"))
    on_cpu = make_policy(SMALL)
    on_cpu.load_state_dict(on_gpu.state_dict())
    batch = random_batch(np.random.default_rng(4), 5)
    np.testing.assert_allclose(on_gpu.act(batch, None).value, on_cpu.act(batch, None).value, rtol=1e-2, atol=1e-2)
