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
from esper.tamiyo.coverage import Coverage, coverage_of
from esper.tamiyo.gnn import GraphEncoding, TamiyoGNN
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.graph_spec import GRAPH_SPEC, GraphSpec
from esper.tamiyo.inspection import PolicyInspection, PolicyOutput
from esper.tamiyo.norms import FeatureNorms
from esper.tamiyo.packet_adapter import report_from_packet
from esper.tamiyo.packet_export import host_from_report, packet_from_report
from esper.tamiyo.policy import PolicyEvaluation, TamiyoPolicy
from esper.tamiyo.registries import Registries
from esper.tamiyo.service import PolicyAnswerError, PolicyRejectedError, TamiyoService

__all__ = [
    "GRAPH_SPEC",
    "Coverage",
    "FeatureNorms",
    "FixedSchedule",
    "Germination",
    "GradientPolicy",
    "GraphBuilder",
    "GraphEncoding",
    "GraphSpec",
    "HeuristicPolicy",
    "HeuristicRules",
    "PolicyAnswerError",
    "PolicyEvaluation",
    "PolicyInspection",
    "PolicyOutput",
    "PolicyRejectedError",
    "ProbabilityFloors",
    "RandomPolicy",
    "Registries",
    "TamiyoGNN",
    "TamiyoGNNConfig",
    "TamiyoPolicy",
    "TamiyoService",
    "WaitPolicy",
    "coverage_of",
    "host_from_report",
    "packet_from_report",
    "report_from_packet",
]
