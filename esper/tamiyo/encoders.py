"""Node encoders: raw channels and looked-up indices in, embeddings out."""

# ruff: noqa: F722, TC001, TC002, TC003 (shapes in annotations, which tests check at run time)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from esper.leyline.graph import NODE_WIDTHS
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tamiyo.graph_spec import EMBEDDED, GRAPH_SPEC, INDEX_SCALE, MASKS, ONE_HOT
from esper.tamiyo.layout import NODE_TYPES
from esper.tamiyo.messages import as_used


def table_shapes(config: TamiyoGNNConfig) -> dict[str, tuple[int, int]]:
    """(rows, width) of every embedding table."""
    return {
        "layer_type": (config.layer_vocab, config.layer_type_dim),
        "activation_type": (config.activation_vocab, config.activation_type_dim),
        "blueprint": (config.blueprint_vocab, config.blueprint_dim),
        "seed": (config.seed_vocab, config.seed_dim),
        "specialization": (config.specialization_vocab, config.specialization_dim),
        "optimizer_family": (config.optimizer_vocab, config.optimizer_dim),
    }


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where a node type's indices and codes stand in its channels, and in the joint table of all types."""

    channels: np.ndarray
    """[K] channel of each."""
    num_rows: np.ndarray
    """[K] rows of each; a code has one more than channels to spread over, for code 0."""
    first_row: np.ndarray
    """[K] row in the joint table."""

    def rows(self, x: np.ndarray) -> np.ndarray:
        """[N, K] rows of the joint table; what lies outside of its table shares row 0."""
        index = np.rint(x[:, self.channels] * np.float32(INDEX_SCALE)).astype(np.int64)
        rows: np.ndarray = np.where((index >= 0) & (index < self.num_rows), index, 0) + self.first_row
        return rows


class Lookups:
    """Indices of all node types."""

    def __init__(self, config: TamiyoGNNConfig):
        """Lay out the joint table: type by type, first its embedding tables, then its codes."""
        shapes, start = table_shapes(config), 0
        self._of: dict[str, Lookup] = {}
        for node_type in NODE_TYPES:
            rows = [shapes[table][0] for _, table in EMBEDDED[node_type]] + [n + 1 for _, n in ONE_HOT[node_type]]
            names = [name for name, _ in (*EMBEDDED[node_type], *ONE_HOT[node_type])]
            channels = [GRAPH_SPEC.channel(node_type, name) for name in names]
            num_rows = np.array(rows, dtype=np.int64)
            self._of[node_type] = Lookup(np.array(channels, dtype=np.int64), num_rows, np.cumsum(num_rows) - num_rows + start)
            start += int(num_rows.sum())

    def rows(self, nodes: Mapping[str, np.ndarray]) -> np.ndarray:
        """[V] rows of the joint table, node by node."""
        return np.concatenate([self._of[t].rows(nodes[t]).ravel() for t in NODE_TYPES])

    def offsets(self, num_nodes: Mapping[str, int]) -> np.ndarray:
        """[N] first of each node's rows."""
        counts = np.repeat([len(self._of[t].channels) for t in NODE_TYPES], [num_nodes[t] for t in NODE_TYPES])
        offsets: np.ndarray = np.cumsum(counts) - counts
        return offsets


class NodeEncoder(nn.Module):
    """Weights of one node type: Linear, ReLU, LayerNorm over raw channels, embeddings of indices, and codes as one-hot channels.

    At birth masks and unknown indices say nothing, and known ones have embeddings of about unit length: in most hosts both are
    constant, and would drown in the normalisation what was measured.
    """

    def __init__(self, node_type: str, tables: Mapping[str, tuple[int, int]], width: int):
        """Make tables of (rows, width) for each index channel of `node_type`."""
        super().__init__()
        embeddings = [nn.Embedding(*tables[table]) for _, table in EMBEDDED[node_type]]
        codes = [num_codes for _, num_codes in ONE_HOT[node_type]]
        self.tables = nn.ModuleList(embeddings)
        self.sizes = (NODE_WIDTHS[node_type], *(e.embedding_dim for e in embeddings), *codes)
        """Channels of the linear layer: raw, each embedding, each code."""
        self.linear = nn.Linear(sum(self.sizes), width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight[:, list(MASKS[node_type])] = 0.0
            for embedding in embeddings:
                embedding.weight.mul_(embedding.embedding_dim**-0.5)
                embedding.weight[0] = 0.0

    def split_weights(self) -> tuple[Tensor, list[Tensor]]:
        """[raw, D] weight of the raw channels, and [rows, D] what each row of each table or code adds."""
        raw, *columns = self.linear.weight.t().split(list(self.sizes))
        num_tables = len(self.tables)
        added = [table.weight @ w for table, w in zip(self.tables, columns[:num_tables], strict=True)]
        return raw, added + [functional.pad(w, (0, 0, 1, 0)) for w in columns[num_tables:]]


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All node types' weights as they are used, in one precision."""

    raw: tuple[Tensor, ...]
    """[F, D] of each type."""
    bias: tuple[Tensor, ...]
    norm: tuple[tuple[Tensor, Tensor, float], ...]
    """(weight, bias, epsilon) of each type."""
    table: Tensor
    """[rows, widest D] what each index adds; narrower types are filled up with zeros."""


class NodeEncoders(nn.ModuleDict):
    """y = LN(ReLU(W [x, E₁[i₁], …, onehot(c₁), …] + b)) for every node type.

    The products of W with the tables' rows are added up by index, so that nothing is looked up only to be multiplied.
    """

    def __init__(self, config: TamiyoGNNConfig):
        """Make one encoder for each node type."""
        shapes = table_shapes(config)
        self.widths = {t: config.activation_dim if t == "activation" else config.hidden_dim for t in NODE_TYPES}
        super().__init__({t: NodeEncoder(t, shapes, width) for t, width in self.widths.items()})
        self._padding = [max(self.widths.values()) - width for width in self.widths.values()]

    def weights(self, dtype: torch.dtype) -> EncoderWeights:
        """Take the weights apart."""
        encoders: list[NodeEncoder] = [self[t] for t in NODE_TYPES]  # type: ignore[misc]
        split = [encoder.split_weights() for encoder in encoders]
        table = [functional.pad(rows, (0, p)) for (_, added), p in zip(split, self._padding, strict=True) for rows in added]
        return EncoderWeights(
            raw=tuple(as_used(raw, dtype) for raw, _ in split),
            bias=tuple(e.linear.bias.to(dtype) for e in encoders),
            norm=tuple((e.norm.weight.to(dtype), e.norm.bias.to(dtype), e.norm.eps) for e in encoders),
            table=torch.cat(table).to(dtype),
        )

    def forward(
        self, weights: EncoderWeights, x: Mapping[str, Tensor], rows: Int[Tensor, " V"], offsets: Int[Tensor, " N"]
    ) -> Float[Tensor, "N D"]:
        """Encode all nodes into one table; narrower types are filled up with zeros."""
        hidden = [torch.addmm(bias, x[t].to(raw.dtype), raw) for t, raw, bias in zip(NODE_TYPES, weights.raw, weights.bias, strict=True)]
        added = torch.embedding_bag(weights.table, rows, offsets)[0]
        summed = (torch.cat(self._widened(hidden)) + added).relu()
        encoded = []
        for part, width, (weight, bias, eps) in zip(
            summed.split([len(h) for h in hidden]), self.widths.values(), weights.norm, strict=True
        ):
            encoded.append(torch.layer_norm(part if width == part.shape[1] else part[:, :width], (width,), weight, bias, eps))
        return torch.cat(self._widened(encoded))

    def _widened(self, parts: list[Tensor]) -> list[Tensor]:
        return [functional.pad(part, (0, p)) if p else part for part, p in zip(parts, self._padding, strict=True)]
