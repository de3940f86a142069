"""Small policies in directories of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.rng import SeedTree
from esper.tamiyo.config import TamiyoGNNConfig
from esper.tamiyo.graph_spec import GRAPH_SPEC
from esper.tamiyo.policy import TamiyoPolicy
from esper.tamiyo.registries import Registries
from esper.tamiyo.service import Observing, save_policy
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH

if TYPE_CHECKING:
    from pathlib import Path

TINY = TamiyoGNNConfig(
    hidden_dim=16, activation_dim=8, attention_dim=16, num_heads=2, dropout=0.0, op_bias=(0.0, 3.0, -3.0, -3.0, 2.0, 1.0)
)
"""Grows whatever it may, so that commands say something."""
REGISTRIES = Registries.standard(blueprints=[f"blueprint{place}" for place in range(32)])
OBSERVING = Observing(REGISTRIES, LIMITS, STEPS_PER_EPOCH)
DIGESTS = {"catalogue": "abc", "graph": GRAPH_SPEC.digest, **REGISTRIES.digests()}


def make_policy(seed: int, config: TamiyoGNNConfig = TINY) -> TamiyoPolicy:
    with SeedTree(seed).torch_scope():
        policy = TamiyoPolicy(config)
    policy.eval()
    return policy


def store(path: Path, seed: int = 0, *, observing: Observing = OBSERVING, digests: dict[str, str] | None = None) -> Path:
    save_policy(path, make_policy(seed), observing, digests=DIGESTS if digests is None else digests, num_updates=seed, source={})
    return path
