"""What the policy can tell about a decision beyond the decision itself."""

# ruff: noqa: F722, TC002 (shapes in annotations, which tests check at run time)

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from esper.leyline.actions import STYLE_MEANING, Head
from esper.leyline.alpha import BLENDING_METHODS, METHOD_OF_CURVE, AlphaCurve
from esper.tamiyo.heads import DETAILS


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Decisions for B trials."""

    actions: np.ndarray
    """[B, 8] int64 in the order of `Head`; heads that do not matter to the operation hold their defaults."""
    log_prob: np.ndarray
    """[B] float32: sum over the heads that matter."""
    head_log_prob: np.ndarray
    """[B, 8] float32; 0 where the head does not matter."""
    value: np.ndarray
    """[B] float32 in normalised units."""
    op_probs: np.ndarray
    """[B, 6] float32; 0 where the operation is illegal."""


@dataclass(frozen=True, slots=True)
class PolicyInspection(PolicyOutput):
    """Decisions, and what stands behind them; float32 throughout."""

    slot_probs: np.ndarray
    """[B, S] given the operation taken; over slots that it may not name 0."""
    blueprint_probs: np.ndarray
    """[B, 32] given operation and slot; the kernel choice."""
    blending_probs: np.ndarray
    """[B, 4] over `BLENDING_METHODS`, given operation and slot: by the style head for GERMINATE, else by the curve head."""
    confidence: np.ndarray
    """[B] in 0…1: probability of the operation, times that of the slot where the operation names one."""
    risk_probs: np.ndarray
    """[B, 5] mildest first."""
    graph_embedding: np.ndarray
    """[B, D]: mean over the host's layers."""
    telemetry_embedding: np.ndarray
    """[B, 64]"""
    policy_params: np.ndarray | None
    """[B, P] medians of `POLICY_PARAMS`; None where the head is off."""

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Names of the parts that hold a number that is not finite: no decision rests on them."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return tuple(name for name, values in parts.items() if values is not None and not np.isfinite(values).all())


def method_probs(detail_probs: Float[Tensor, "B heads widest"], head: Head) -> Float[Tensor, "B methods"]:
    """Probability of each blending method as one of the heads STYLE and ALPHA_CURVE sees it."""
    curves = [STYLE_MEANING[style][0] for style in STYLE_MEANING] if head is Head.STYLE else list(AlphaCurve)
    methods = torch.tensor([BLENDING_METHODS.index(METHOD_OF_CURVE[curve]) for curve in curves], device=detail_probs.device)
    of_head = detail_probs[:, head - DETAILS.start, : len(curves)]
    return of_head.new_zeros(len(of_head), len(BLENDING_METHODS)).index_add_(1, methods, of_head)
