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
DETAILS = slice(DETAIL_HEADS[0], DETAIL_HEADS[-1] + 1)
"""Their columns in an action row."""
WIDEST_DETAIL = max(HEAD_SIZES[h] for h in DETAIL_HEADS)
"""Choices that every detail head is filled up to, so that all are treated at once."""
FIRST_GAIN = 0.01
"""Gain of the last layers at birth: the first policy is nearly uniform over what is legal."""


class ActionHeads(nn.Module):
    """Logits of the eight heads. `D` is the embedding width, a summary is [B, 2·D]."""

    detail_places: Tensor

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
        self.register_buffer("detail_places", _detail_places(), persistent=False)

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

    def details(self, graph: Float[Tensor, "B D"], seed: Float[Tensor, "B D"], op: Int[Tensor, " B"]) -> Float[Tensor, "B heads widest"]:
        """Logits of each detail head, given the operation and the embedding of the chosen seed node; 0 beyond a head's choices."""
        hidden = functional.gelu(self.detail_hidden(torch.cat([graph, seed, self.op_embedding(op)], dim=1)))
        logits = functional.pad(self.detail_logits(hidden), (0, 1))
        return logits.index_select(1, self.detail_places).view(-1, len(DETAIL_HEADS), WIDEST_DETAIL)

    def gradient_norms(self) -> dict[str, Tensor]:
        """L2 norm of the last gradient over the parameters that are a head's own, by head, as scalars; none before the first backward pass.

        Detail heads share their hidden layer, so that each one's own are its rows of the last layer.
        """
        named = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        prefixes = {"op": ("op_hidden.", "op_logits."), "slot": ("slot_",)}
        parts = {head: [g for name, g in named.items() if name.startswith(own)] for head, own in prefixes.items()}
        sizes = [HEAD_SIZES[h] for h in DETAIL_HEADS]
        last = [named[name].split(sizes) for name in ("detail_logits.weight", "detail_logits.bias") if name in named]
        parts |= {h.name.lower(): [rows[i] for rows in last] for i, h in enumerate(DETAIL_HEADS)}
        return {name: torch.stack(torch._foreach_norm(gradients)).norm() for name, gradients in parts.items() if gradients}


def _detail_places() -> Tensor:
    """[heads · widest] column of each choice among all detail logits; the one behind the last stands for no choice."""
    total = sum(HEAD_SIZES[h] for h in DETAIL_HEADS)
    places, start = torch.full((len(DETAIL_HEADS), WIDEST_DETAIL), total), 0
    for row, head in enumerate(DETAIL_HEADS):
        places[row, : HEAD_SIZES[head]] = torch.arange(start, start + HEAD_SIZES[head])
        start += HEAD_SIZES[head]
    return places.flatten()
