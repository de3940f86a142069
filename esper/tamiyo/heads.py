"""Action heads: operation, then slot, then everything else, each conditioned on what was chosen before it.

The heads give logits; masks, floors and sampling are the distribution's part.
"""

# ruff: noqa: F722, TC001, TC002 (shapes in annotations, which tests check at run time)

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.actions import HEAD_SIZES, Head
from esper.tamiyo.config import TamiyoGNNConfig

DETAIL_HEADS = (Head.BLUEPRINT, Head.STYLE, Head.TEMPO, Head.ALPHA_TARGET, Head.ALPHA_SPEED, Head.ALPHA_CURVE)
"""Heads that say how an operation is done, in the order of their logits."""
FIRST_GAIN = 0.01
"""Gain of the last layers at birth: the first policy is nearly uniform over what is legal."""


class ActionHeads(nn.Module):
    """Logits of the eight heads. `D` is the embedding width, a summary is [B, 2·D]."""

    def __init__(self, embedding_dim: int, config: TamiyoGNNConfig):
        """Build the heads with an operation head biased towards WAIT."""
        super().__init__()
        self.op_hidden = nn.Linear(2 * embedding_dim, embedding_dim)
        self.op_logits = nn.Linear(embedding_dim, HEAD_SIZES[Head.OP])
        self.op_embedding = nn.Embedding(HEAD_SIZES[Head.OP], config.op_dim)
        self.slot_from_seed = nn.Linear(embedding_dim, embedding_dim)
        self.slot_from_context = nn.Linear(embedding_dim + config.op_dim, embedding_dim, bias=False)
        self.slot_score = nn.Linear(embedding_dim, 1, bias=False)
        self.detail_hidden = nn.Linear(2 * embedding_dim + config.op_dim, embedding_dim)
        self.detail_logits = nn.Linear(embedding_dim, sum(HEAD_SIZES[h] for h in DETAIL_HEADS))
        for last in (self.op_logits, self.slot_score, self.detail_logits):
            nn.init.orthogonal_(last.weight, FIRST_GAIN)
        nn.init.zeros_(self.op_logits.bias)
        nn.init.zeros_(self.detail_logits.bias)
        with torch.no_grad():
            self.op_logits.bias.copy_(torch.tensor(config.op_bias))

    def op(self, summary: Float[Tensor, "B D2"]) -> Float[Tensor, "B 6"]:
        """Operation logits from the state summary."""
        logits: Tensor = self.op_logits(functional.gelu(self.op_hidden(summary)))
        return logits

    def slot(self, graph: Float[Tensor, "B D"], seeds: Float[Tensor, "B S D"], op: Int[Tensor, " B"]) -> Float[Tensor, "B S"]:
        """Score of every seed node under the operation chosen; the number of slots is free."""
        context = self.slot_from_context(torch.cat([graph, self.op_embedding(op)], dim=1))
        hidden = functional.gelu(self.slot_from_seed(seeds) + context[:, None])
        scores: Tensor = self.slot_score(hidden).squeeze(-1)
        return scores

    def details(self, graph: Float[Tensor, "B D"], seed: Float[Tensor, "B D"], op: Int[Tensor, " B"]) -> dict[Head, Tensor]:
        """Logits [B, A] of each detail head, given the operation and the embedding of the chosen seed node."""
        hidden = functional.gelu(self.detail_hidden(torch.cat([graph, seed, self.op_embedding(op)], dim=1)))
        logits = self.detail_logits(hidden).split([HEAD_SIZES[h] for h in DETAIL_HEADS], dim=1)
        return dict(zip(DETAIL_HEADS, logits, strict=True))
