"""The policy: observes a host as a graph, and decides where, when and what to grow."""

from importlib.util import find_spec

if find_spec("torch_geometric") is None:
    raise ImportError("esper.tamiyo needs PyTorch Geometric: pip install 'torch-geometric>=2.8,<3'")

from esper.tamiyo.baselines import (
    FixedSchedule,
    Germination,
    GradientPolicy,
    HeuristicPolicy,
    HeuristicRules,
    RandomPolicy,
    WaitPolicy,
)
from esper.tamiyo.config import ProbabilityFloors, TamiyoGNNConfig
from esper.tamiyo.gnn import GraphEncoding, TamiyoGNN
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.graph_spec import GRAPH_SPEC, GraphSpec
from esper.tamiyo.policy import (
    PolicyEvaluation,
    PolicyOutput,
    TamiyoPolicy,
    is_forced,
)

__all__ = [
    "GRAPH_SPEC",
    "FixedSchedule",
    "Germination",
    "GradientPolicy",
    "GraphBuilder",
    "GraphEncoding",
    "GraphSpec",
    "HeuristicPolicy",
    "HeuristicRules",
    "PolicyEvaluation",
    "PolicyOutput",
    "ProbabilityFloors",
    "RandomPolicy",
    "TamiyoGNN",
    "TamiyoGNNConfig",
    "TamiyoPolicy",
    "WaitPolicy",
    "is_forced",
]
