"""Settings of the policy: how wide its graph network is, and how its action distribution is tempered."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline.actions import NUM_BLUEPRINT_PLACES, Head, LifecycleOp
from esper.leyline.load import setting

NUM_LAYERS = 4
"""Message-passing layers: two SAGE, then two GAT."""
NUM_SAGE_LAYERS = 2


@dataclass(frozen=True)
class ProbabilityFloors:
    """Least probability of each legal choice, per head. Shrunk where the floors of a head would add up to more than one half.

    Large floors (the reference kept op 0.15, slot 0.05, blueprint 0.12, style 0.08, tempo 0.12, alpha_target 0.08,
    alpha_speed and alpha_curve 0.06) explore more, but make every policy act at random most of the time.
    """

    slot: float = setting(0.01, "Least probability of a legal slot; 0 is none.", ge=0, lt=1)
    blueprint: float = setting(0.01, "Least probability of a blueprint on offer; 0 is none.", ge=0, lt=1)
    style: float = setting(0.0, "Least probability of a blend style; 0 is none.", ge=0, lt=1)
    tempo: float = setting(0.0, "Least probability of a tempo; 0 is none.", ge=0, lt=1)
    alpha_target: float = setting(0.0, "Least probability of an alpha target; 0 is none.", ge=0, lt=1)
    alpha_speed: float = setting(0.0, "Least probability of an alpha speed; 0 is none.", ge=0, lt=1)
    alpha_curve: float = setting(0.0, "Least probability of an alpha curve; 0 is none.", ge=0, lt=1)
    op: float = setting(0.02, "Least probability of a legal operation; 0 is none.", ge=0, lt=1)

    def of(self, head: Head) -> float:
        """The floor of one head."""
        floor: float = getattr(self, head.name.lower())
        return floor


@dataclass(frozen=True)
class TamiyoGNNConfig:
    """Graph network and action heads."""

    hidden_dim: int = setting(256, "Width of the encoders and of the two SAGE layers.", ge=1)
    activation_dim: int = setting(128, "Width of the encoder of activation nodes.", ge=1)
    attention_dim: int = setting(128, "Width of the two GAT layers, and of the graph embedding.", ge=1)
    num_heads: int = setting(4, "Attention heads; their outputs are averaged.", ge=1)
    dropout: float = setting(0.2, "Share of units dropped after each layer in training mode; 0 is none.", ge=0, lt=1)
    neighbour_limits: tuple[int, ...] = setting(
        (25, 10, 5, 5), "Edges of one relation that a node listens to, per layer; kept are ones evenly spaced by source.", ge=1
    )
    limited_from_nodes: int = setting(
        1000, "Nodes of a graph from which neighbour limits act on it; in smaller graphs, every edge is heard.", ge=1
    )
    layer_vocab: int = setting(64, "Rows of the layer-type table.", ge=1, le=64)
    activation_vocab: int = setting(64, "Rows of the activation-type table.", ge=1, le=64)
    blueprint_vocab: int = setting(
        NUM_BLUEPRINT_PLACES + 1, "Rows of the blueprint table: every place, and one for an empty slot.", ge=NUM_BLUEPRINT_PLACES + 1, le=64
    )
    seed_vocab: int = setting(64, "Rows of the table of registered seeds.", ge=1, le=64)
    specialization_vocab: int = setting(64, "Rows of the specialization table.", ge=1, le=64)
    optimizer_vocab: int = setting(64, "Rows of the optimizer-family table.", ge=1, le=64)
    layer_type_dim: int = setting(32, "Width of the layer-type embedding.", ge=1)
    activation_type_dim: int = setting(8, "Width of the activation-type embedding.", ge=1)
    blueprint_dim: int = setting(16, "Width of the blueprint embedding.", ge=1)
    seed_dim: int = setting(8, "Width of the embedding of registered seeds.", ge=1)
    specialization_dim: int = setting(4, "Width of the specialization embedding.", ge=1)
    optimizer_dim: int = setting(4, "Width of the optimizer-family embedding.", ge=1)
    op_dim: int = setting(16, "Width of the operation embedding that the other heads are conditioned on.", ge=1)
    telemetry_dim: int = setting(64, "Width of the telemetry embedding.", ge=1)
    op_bias: tuple[float, ...] = setting(
        (0.5, 0.0, -1.0, -1.0, 2.0, 1.0),
        "First logits of WAIT, GERMINATE, SET_ALPHA_TARGET, PRUNE, FOSSILIZE, ADVANCE; with these what was planted is mostly kept. "
        "A policy that plants at 1 in 3 every epoch almost always plants when sampled, and never by its most probable choice.",
    )
    probability_floors: ProbabilityFloors = setting(ProbabilityFloors, "Least probabilities per head.")
    has_policy_params: bool = setting(
        False, "Add the head of continuous adjustments, which commands report; PPO does not train it and no trial acts on it."
    )
    device: str = setting("cpu", "Where the policy is built; training moves it to where the learner runs.")
    compile: bool = setting(False, "Compile the network for inference; where that fails it stays eager, and the log says so once.")
    has_autocast: bool = setting(
        False, "Run the graph network in bfloat16, the action distribution in float32. Only faster where the device has bfloat16 units."
    )

    def __post_init__(self) -> None:
        """Refuse a list of limits that does not fit the layers.

        Raises:
            ValueError: If there is not one neighbour limit per layer, or not one bias per operation.
        """
        if len(self.neighbour_limits) != NUM_LAYERS:
            raise ValueError(f"neighbour_limits={self.neighbour_limits} should have {NUM_LAYERS} numbers, one per layer")
        if len(self.op_bias) != len(LifecycleOp):
            raise ValueError(f"op_bias={self.op_bias} should have {len(LifecycleOp)} numbers, one per operation")
