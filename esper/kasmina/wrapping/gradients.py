"""Whether gradients reach what grows behind a submodule, where the model is trained and where it is probed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from esper.kasmina.wrapping.observe import undisturbed
from esper.kasmina.wrapping.survey import RUN_ERRORS
from esper.leyline.host import WrapError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.wrapping.survey import Survey

UNUSED = "choose a submodule whose output the model uses"
SWITCHED_OFF = (
    "it runs where gradients are off, as under torch.no_grad() or in checkpoint(..., use_reentrant=True): let gradients through, there "
    "with use_reentrant=False, or choose a later submodule"
)


@dataclass(frozen=True, slots=True)
class Reach:
    """Of some submodules, by path."""

    unheard: Mapping[str, str]
    """Those that no gradient reaches, in evaluation or in training, and what to do about it."""
    recomputed: frozenset[str]
    """Those that run once more in a backward pass, as in `torch.utils.checkpoint`."""


def find_reach(survey: Survey, names: Sequence[str]) -> Reach:
    """Add a zero to the outputs of the submodules `names`, each of which runs once, and see whether it gets a gradient.

    Raises:
        WrapError: If a backward pass fails.
    """
    if not names:
        return Reach({}, frozenset())
    passes = [_listen(survey, names, training=training) for training in (False, True)]
    unheard = {name: reason for name in names for done in passes[::-1] if (reason := done.objection(name)) is not None}
    return Reach(unheard, frozenset().union(*(done.recomputed for done in passes)))


class _Listening:
    """A pass with a zero parameter behind every submodule."""

    def __init__(self) -> None:
        self.zeros: dict[str, Tensor] = {}
        self.heard: frozenset[str] = frozenset()
        self.switched_off: set[str] = set()
        self.recomputed: set[str] = set()
        self.is_backward = False

    def add(self, name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook."""
        if self.is_backward:
            self.recomputed.add(name)
        elif not torch.is_grad_enabled():
            self.switched_off.add(name)
        if name not in self.zeros:
            self.zeros[name] = torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
        return output + self.zeros[name]

    def objection(self, name: str) -> str | None:
        if name in self.heard:
            return None
        return SWITCHED_OFF if name in self.switched_off else UNUSED


def _listen(survey: Survey, names: Sequence[str], *, training: bool) -> _Listening:
    """One pass as training does it, or as a probe asks for gradients in evaluation mode."""
    done, model = _Listening(), survey.model
    handles = [model.get_submodule(name).register_forward_hook(partial(done.add, name)) for name in names]
    try:
        with undisturbed(model, training=training), torch.enable_grad():
            with set_checkpoint_early_stop(enable=False):  # else a hook would be missed at the end of what is recomputed
                logits: Tensor = model(survey.example.clone())
            done.is_backward = True
            if logits.requires_grad:
                done.heard = _heard(logits.sum(), done.zeros, training=training)
    except RUN_ERRORS as error:
        mode = "training" if training else "evaluation"
        raise WrapError(f"gradients of the {type(model).__name__} cannot be had in {mode} mode: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return done


def _heard(total: Tensor, zeros: Mapping[str, Tensor], *, training: bool) -> frozenset[str]:
    if training:
        torch.autograd.backward(total)
        return frozenset(name for name, zero in zeros.items() if zero.grad is not None)
    gradients = torch.autograd.grad(total, list(zeros.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(zeros, gradients, strict=True) if gradient is not None)
