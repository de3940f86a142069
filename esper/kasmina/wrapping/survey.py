"""What a model does on an example: in evaluation and training, with another batch size, and with one sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.kasmina.wrapping.keep import refusing_written_buffers
from esper.kasmina.wrapping.observe import Observation, agree, dense, describe, observe, undisturbed
from esper.leyline.host import WrapError
from esper.leyline.rng import SeedTree

RUN_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
)
"""What a forward pass raises that does not like its input."""
NUM_REHEARSALS = 16
"""Further training passes. What is left out of a third of all passes runs in every one of these in 0.2 % of cases."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A model on its example of n samples."""

    model: nn.Module
    example: Tensor
    """[n, …]"""
    evaluation: Observation
    """In evaluation mode."""
    grown: Observation
    """In evaluation mode, with the first sample once more at the end: n + 1 samples."""
    training: Observation
    """In training mode."""
    rehearsals: tuple[Counter[str], ...]
    """How often every submodule ran in further training passes on two samples, each with random numbers of its own."""
    min_eval_batch: int
    """1, or 2 where evaluating a single sample fails."""
    min_train_batch: int
    """1, or 2 where training on a single sample fails."""

    @property
    def logits(self) -> Tensor:
        """Of the example: [n, classes] or [n, T, classes]."""
        logits: Tensor = self.evaluation.logits
        return logits


def survey(model: nn.Module, example: Tensor) -> Survey:
    """Run `model` in every way that counts.

    Raises:
        WrapError: If it cannot run, gives no logits, draws random numbers in evaluation mode, mixes the samples of a
            batch, writes to its input, or writes to its buffers in evaluation mode.
    """
    _check_example(model, example)
    varied = _varied(example)
    with undisturbed(model, training=False), torch.no_grad(), refusing_written_buffers(model):
        evaluation = _run(model, varied, "in evaluation mode")
        _check_logits(evaluation.logits, len(varied), "in evaluation mode")
        again = _run(model, varied, "in evaluation mode")
        if not agree(again.logits, evaluation.logits):
            raise WrapError(
                "two evaluations of the same example differ: something draws random numbers in evaluation mode, e.g. F.dropout without "
                "training=self.training"
            )
        grown = _run(model, torch.cat([varied, varied[:1]]), f"with {len(varied) + 1} samples instead of {len(varied)}")
        _check_logits(grown.logits, len(varied) + 1, f"with {len(varied) + 1} samples instead of {len(varied)}")
        min_eval_batch = 1 if _does_one(model, varied, evaluation) else 2
    _check_samples_apart(evaluation, grown)
    with undisturbed(model, training=True), torch.no_grad():
        training = _run(model, varied, "in training mode")
        _check_logits(training.logits, len(varied), "in training mode")
        rehearsals = tuple(_counted(_run(model, varied[:2], "in training mode")) for _ in range(NUM_REHEARSALS))
        min_train_batch = 1 if _does_one(model, varied, None) else 2
    return Survey(model, varied, evaluation, grown, training, rehearsals, min_eval_batch, min_train_batch)


def _check_example(model: nn.Module, example: Tensor) -> None:
    if not isinstance(example, Tensor) or example.ndim < 2 or len(example) < 2:
        raise WrapError(f"example should be a batch of at least 2 inputs, e.g. torch.randn(2, 3, 32, 32); got {describe(example)}")
    if not example.is_floating_point() and example.dtype != torch.int64:
        raise WrapError(f"example should hold floating-point values or int64 tokens, got {describe(example)}")
    if not bool(example.isfinite().all()):
        count = int((~example.isfinite()).sum())
        raise WrapError(f"example should hold finite values, but {count} of {example.numel()} are infinite or NaN")
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in model.parameters() if not is_lazy(p)):
        raise WrapError("a model that was made, or is to be wrapped, in torch.inference_mode() cannot be trained: leave the mode first")
    if next(model.parameters(), None) is None:
        raise WrapError(f"the {type(model).__name__} has no parameters, so there is nothing to train")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise WrapError(f"every parameter of the {type(model).__name__} is frozen; leave at least one, such as the head, trainable")


def _varied(example: Tensor) -> Tensor:
    """A copy of the example, with noise in place of samples that are all alike: they could not tell whether samples are kept apart."""
    if example.is_floating_point() and bool((example == example[:1]).all()):
        noise = torch.randn(example.shape, generator=SeedTree(0).child("wrap", "example").torch())
        return noise.to(device=example.device, dtype=example.dtype)
    return example.detach().clone()


def _run(model: nn.Module, x: Tensor, when: str) -> Observation:
    given = x.clone()
    try:
        run = observe(model, given)
    except RUN_ERRORS as error:
        raise WrapError(f"the model fails {when} on {describe(x)}: {error}") from error
    if given._version or not torch.equal(given, x):
        raise WrapError(
            f"the model modifies its input in place {when}{_writer(run, given)}, and would so change the data; use inplace=False there, or "
            "let it work on a copy"
        )
    return run


def _writer(run: Observation, x: Tensor) -> str:
    """The first submodule that says it works in place, on the memory of the input."""
    for call in run.calls:
        is_same = isinstance(call.output, Tensor) and not call.output.is_nested and call.output.data_ptr() == x.data_ptr()
        if is_same and getattr(call.module, "inplace", False):
            return f" ({call.name}: {type(call.module).__name__}(inplace=True))"
    return ""


def _counted(run: Observation) -> Counter[str]:
    return Counter(call.name for call in run.calls)


def _check_logits(logits: Any, batch: int, when: str) -> None:
    is_known = isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim in (2, 3)
    if not is_known or len(logits) != batch or logits.shape[-1] < 2:
        raise WrapError(
            f"the model returns {describe(logits)} for {batch} samples {when}; it should return logits [{batch}, classes] or "
            f"[{batch}, T, classes]: put it into a module that returns them"
        )
    if bool(logits.isnan().any()):
        raise WrapError(f"the model returns NaN for a finite example {when}: check its weights and what it divides by")


def _does_one(model: nn.Module, x: Tensor, expected: Observation | None) -> bool:
    """Whether the model takes a single sample, and answers as it does in a batch where that is known."""
    try:
        logits = model(x[:1].clone())
    except RUN_ERRORS:
        return False
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != 1:
        return False
    return expected is None or agree(logits, expected.logits[:1])


def _check_samples_apart(evaluation: Observation, grown: Observation) -> None:
    """Every value of the first samples, and so their logits, must be what it is without the sample that was added."""
    batch = len(evaluation.logits)
    pairs = [(a.name, dense(a.output), dense(b.output)) for a, b in zip(evaluation.calls, grown.calls, strict=False) if a.name == b.name]
    for name, before, after in [*pairs, ("", evaluation.logits, grown.logits)]:
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.ndim != after.ndim or before.ndim == 0:
            continue
        if len(before) == batch and len(after) == batch + 1 and not agree(after[:batch], before):
            raise WrapError(
                f"a sample's value at {name or 'the logits'} depends on the other samples of its batch, so that evaluations would not "
                "be comparable; use batch_first=True in attention and recurrent layers, and running statistics in batch norms"
            )
