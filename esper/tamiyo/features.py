"""Every feature of an observation: what it says, how it is scaled, which field it comes from, how its absence shows.

`graph_spec` lays these tables out in channels; widths, masks, coverage and the printed table are derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.actions import LifecycleOp
from esper.leyline.alpha import BLENDING_METHODS, AlphaCurve, AlphaMode, BlendOperator
from esper.leyline.signals import TENSOR_SCHEMA_SIZE
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.graph import EdgeType

STAGES = tuple(stage for stage in SeedStage if stage not in (SeedStage.UNKNOWN, SeedStage.SHADOWING))
"""Stages in the order of their codes; UNKNOWN has code 0, and the retired one has none."""
STAGE_CODES: Mapping[SeedStage, int] = {stage: code for code, stage in enumerate((SeedStage.UNKNOWN, *STAGES))}
SLOT_OPS = tuple(op for op in LifecycleOp if op is not LifecycleOp.WAIT)
"""Operations that name a slot, in the order of their availability channels."""
METRICS = ("step_loss", "step_gradient_norm", "samples_per_s", "hook_latency_ms")
"""Metrics that travel unscaled; the network normalises them by what it has seen so far."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One named range of channels."""

    name: str
    meaning: str
    source: str
    """Field that it is computed from, beginning with the report it belongs to; `TrialReport` where no class is named."""
    scaling: str = "as it is"
    size: int = 1
    mask: str = ""
    """Feature whose channels say whether this one was measured; empty where it is always known, and for indices."""
    mask_start: int = 0
    """Channel of the mask that belongs to the first channel; channels beyond the mask are always known."""
    table: str = ""
    """Embedding table that the network looks the index up in."""
    num_codes: int = 0
    """Codes 1…n that the network spreads over n channels, one of which is 1; code 0 leaves all of them 0."""
    in_training: bool = True
    """Whether Esper's own training measures it; the rest comes from packets."""
    zero_is_unknown: bool = False
    """Whether 0 says that nothing is known."""
    told_by: tuple[str, str] | None = None
    """Node type and feature that say whether this one was measured, at the node of the same number, where it has no mask of its own."""
    of_seed: bool = False
    """Whether it belongs to the seed in a slot and not to the slot, so that it says nothing while the slot is empty."""

    @property
    def is_index(self) -> bool:
        """Whether the channel carries index / 64; index 0 is unknown."""
        return bool(self.table or self.num_codes)


def _masked(feature: Feature) -> tuple[Feature, Feature]:
    """The feature, and behind it a mask of the same size."""
    mask = Feature(f"{feature.name}_mask", f"1 where {feature.name} was measured", feature.source, "0 or 1", feature.size)
    named = Feature(**{n: getattr(feature, n) for n in Feature.__dataclass_fields__} | {"mask": mask.name})
    return named, mask


_POINTS = "points / 10, to ±5"
_METRIC = "raw; z-score / 5, to ±1, within the network"
_SHARE = "share of the graph's total"
_LOG = "½·log10(1 + x)"
LAYER_MASK = ("weight_norm", "gradient_norm", "gradient_variance", "update_magnitude", "saturation_rate")
"""Measurements in the order of the layers' common mask."""

_LAYER: tuple[Feature, ...] = (
    Feature("layer_type", "kind of layer", "LayerSpec.layer_type", "registry index / 64", table="layer_type"),
    Feature("activation_type", "activation behind it", "LayerSpec.activation_type", "registry index / 64", table="activation_type"),
    Feature("activation_known", "1 where the host tells the activation", "LayerSpec.activation_type", "0 or 1", zero_is_unknown=True),
    Feature("input_channels", "width of its input", "LayerSpec.input_channels", _LOG),
    Feature("output_channels", "width of its output", "LayerSpec.output_channels", _LOG),
    Feature("dropout_rate", "share of units dropped", "LayerSpec.dropout_rate"),
    Feature("num_parameters", "parameters", "LayerSpec.num_parameters", _LOG),
    Feature("flops", "multiply-accumulates for a sample", "LayerSpec.flops", _LOG),
    Feature("parameter_share", "parameters of the host that are here", "LayerSpec.num_parameters", _SHARE),
    Feature("flops_share", "work of the host that is done here", "LayerSpec.flops", _SHARE),
    Feature("position", "place in execution order", "layers", "0 first … 1 last"),
    Feature("is_last", "1 for the head", "layers", "0 or 1"),
    Feature("num_slots", "slots that watch it", "SlotReport.layer_index", _LOG),
    Feature("num_layers", "layers of the host", "layers", _LOG),
    Feature("weight_norm", "L2 norm of the weights", "LayerReport.weight_norm", "log10, 1 becomes 0", mask="measured_mask"),
    Feature("gradient_norm", "L2 norm of the loss gradient", "LayerReport.gradient_norm", "log10 / 2", mask="measured_mask", mask_start=1),
    Feature(
        "gradient_variance", "variance of the gradient's elements", "LayerReport.gradient_variance", "log10 / 4",
        mask="measured_mask", mask_start=2,
    ),
    Feature(
        "update_magnitude", "last epoch's weight change over the weight norm", "LayerReport.update_magnitude", "log10 / 2",
        mask="measured_mask", mask_start=3, in_training=False,
    ),
    Feature("saturation_rate", "share of activations that are 0", "LayerReport.saturation_rate", mask="measured_mask", mask_start=4),
    Feature("measured_mask", f"1 where {', '.join(LAYER_MASK)} were measured", "LayerReport", "0 or 1", len(LAYER_MASK)),
    Feature(
        "relative_gradient", "gradient_norm beside the graph's largest", "LayerReport.gradient_norm", "½·log10 of the ratio",
        mask="measured_mask", mask_start=1,
    ),
    Feature(
        "signals", "the 27 base features, in the order of TensorSchema", "signals", "each to ±1", TENSOR_SCHEMA_SIZE, mask="signals_mask"
    ),
    Feature("epochs_left", "share of the epochs still to come", "epoch, max_epochs"),
    Feature(
        "accuracy_lead", "accuracy beyond what fossils alone give", "val_accuracy, committed_accuracy",
        _POINTS, mask="accuracy_lead_mask",
    ),
    *_masked(Feature("overfit_gap", "training beyond validation accuracy", "train_accuracy, val_accuracy", _POINTS)),
    *_masked(Feature("host_gradient_norm", "gradient norm of the whole network", "gradient_norm", "log10 / 2")),
    Feature("learning_rate", "learning rate of the host", "learning_rate", "log10 / 2", mask="learning_rate_mask"),
    Feature("host_params", "parameters of the host", "host_params", _LOG),
    Feature("seed_growth", "parameters of seeds beside the host's", "seed_params, host_params", "log(1 + ratio)"),
    Feature("fossil_growth", "parameters of fossils beside the host's", "fossil_params, host_params", "log(1 + ratio)"),
    Feature("fossils_left", "share of the fossil budget unspent", "slots, GrowthLimits.max_fossils"),
    Feature("seeds_left", "share of the seed budget unspent", "slots, GrowthLimits.max_seeds"),
    Feature("fossils", "share of slots with a fossil", "slots"),
    Feature("stage_shares", "share of slots in UNKNOWN, then in each stage of STAGES", "slots", size=len(STAGES) + 1),
    Feature("legal_ops", "1 for each operation that is legal now", "masks", "0 or 1", len(LifecycleOp)),
    Feature("anomalies", "anomalies in a row, of 5", "verdict"),
    Feature("signals_mask", "1 where the base feature was measured", "signals", "0 or 1", TENSOR_SCHEMA_SIZE),
    Feature("accuracy_lead_mask", "1 where accuracy_lead was measured", "committed_accuracy", "0 or 1"),
    Feature("learning_rate_mask", "1 where the learning rate is known", "learning_rate", "0 or 1"),
    *_masked(Feature("update_frequency", "share of steps that update the layer", "LayerReport.update_frequency", in_training=False)),
    Feature("step_loss", "training loss of the epoch's steps", "train_loss", _METRIC, mask="step_loss_mask"),
    Feature(
        "step_gradient_norm", "gradient norm of a step", "gradient_norm", _METRIC,
        mask="step_gradient_norm_mask",
    ),
    Feature(
        "samples_per_s", "samples trained a second", "EpochTimings.samples_per_s", _METRIC,
        mask="samples_per_s_mask", in_training=False,
    ),
    Feature(
        "hook_latency_ms", "time that seeds add to a step", "EpochTimings.hook_latency_ms", _METRIC,
        mask="hook_latency_ms_mask", in_training=False,
    ),
    *(Feature(f"{name}_mask", f"1 where {name} was measured", "as that", "0 or 1") for name in METRICS),
)  # fmt: skip

_TRAIT = "0…1; 0.5 where unknown"
_STATS = "log10 (mean: signed log)"
_SEED: tuple[Feature, ...] = (
    Feature(
        "telemetry", "the ten features of SeedTelemetry, alpha among them", "SeedStateReport", "each to ±1", 10,
        mask="telemetry_mask", of_seed=True,
    ),
    Feature(
        "telemetry_mask", "1 where gradient norm, health, vanishing, exploding were measured",
        "SeedMetrics", "0 or 1", 4, of_seed=True,
    ),
    Feature("stage", "lifecycle stage; DORMANT for an empty slot", "SeedStateReport.stage", "code / 64", num_codes=len(STAGES)),
    Feature(
        "blueprint", "what the seed was built from", "SeedStateReport.blueprint_place", "(place + 1) / 64",
        table="blueprint", of_seed=True,
    ),
    Feature("alpha_target", "alpha that it is blended to", "SeedStateReport.alpha_target", of_seed=True),
    Feature("alpha_progress", "share of the running schedule that is done", "SeedStateReport.alpha_progress", of_seed=True),
    Feature(
        "alpha_mode", "whether alpha holds, rises or falls", "SeedStateReport.alpha_mode", "code / 64",
        num_codes=len(AlphaMode), of_seed=True,
    ),
    Feature(
        "operator", "how it is mixed with the host", "SeedStateReport.operator", "code / 64",
        num_codes=len(BlendOperator), of_seed=True,
    ),
    Feature("tempo", "epochs of the first blend, of 8", "SeedStateReport.tempo_epochs", of_seed=True),
    *_masked(Feature("contribution", "accuracy lost without it", "SeedMetrics.contribution", _POINTS, of_seed=True)),
    *_masked(Feature("solo", "accuracy gained by it alone", "SeedMetrics.solo_contribution", _POINTS, of_seed=True)),
    *_masked(Feature("gradient_ratio", "seed to host gradient", "SeedMetrics.gradient_ratio", "log10 / 2", of_seed=True)),
    Feature("age", "epochs since germination, of the episode", "SeedStateReport.age_epochs", of_seed=True),
    Feature("total_improvement", "accuracy gained since germination", "SeedMetrics", _POINTS, of_seed=True),
    Feature("relative_parameters", "parameters beside the host's", "SeedStateReport.num_parameters", "log10 / 2", of_seed=True),
    *_masked(Feature(
        "slot_stats", "gradient norm at the slot; mean, deviation and spatial deviation of the value", "SlotReport", _STATS, 4
    )),
    Feature(
        "relative_gradient", "gradient norm beside that of the graph's largest slot", "SlotReport.gradient_norm", "½·log10 of the ratio",
        mask="slot_stats_mask",
    ),
    Feature("channels", "width of the host at the slot", "SlotReport.channels", _LOG),
    Feature("positions", "values of a channel at the slot", "SlotReport.positions", _LOG),
    Feature("position", "place of the layer that it follows", "SlotReport.layer_index", "0 first … 1 last"),
    Feature("legal_ops", "1 for each of SLOT_OPS that is legal here now", "masks", "0 or 1", len(SLOT_OPS)),
    Feature("seed_id", "which seed, if it is a registered one", "SeedStateReport.seed_id", "registry index / 64",
            table="seed", in_training=False, of_seed=True),
    Feature("monitoring_scope", "share of the host's layers that it watches", "SlotReport.monitored_layers"),
    *_masked(Feature("activity_level", "how active the seed is", "SeedTraits.activity_level", _TRAIT, in_training=False, of_seed=True)),
    *_masked(Feature(
        "success_rate", "share of its adaptations that helped", "SeedTraits.success_rate", _TRAIT, in_training=False, of_seed=True
    )),
    *_masked(Feature("risk_score", "risk of keeping it", "SeedTraits.risk_score", _TRAIT, in_training=False, of_seed=True)),
    Feature("risk_tolerance", "how much risk its owner bears", "SeedTraits.risk_tolerance",
            "2·x − 1; 0 where unknown", in_training=False, of_seed=True, zero_is_unknown=True),
    Feature("specialization", "what it is made for", "SeedTraits.specialization", "registry index / 64",
            table="specialization", in_training=False, of_seed=True),
    Feature("allowed_blending_methods", f"1 for each permitted one of {', '.join(BLENDING_METHODS)}", "masks, SeedTraits",
            "0 or 1; all 0 where unknown", len(BLENDING_METHODS), of_seed=True),
    Feature("quarantine_only", "whether it may only run in isolation", "SeedTraits.quarantine_only",
            "1 yes, −1 no, 0 unknown", in_training=False, of_seed=True, zero_is_unknown=True),
    Feature("policy_version", "whether this very policy placed it", "SeedTraits.policy_version",
            "1 yes, −1 no, 0 unknown", in_training=False, of_seed=True, zero_is_unknown=True),
    Feature("alpha_schedule", "curve of the running blend", "SeedTraits.alpha_schedule", "code / 64",
            num_codes=len(AlphaCurve), in_training=False, of_seed=True),
)  # fmt: skip

_ACTIVATION: tuple[Feature, ...] = (
    Feature("activation_type", "which function", "LayerSpec.activation_type", "registry index / 64", table="activation_type"),
    Feature("known", "1 where the host tells it", "LayerSpec.activation_type", "0 or 1", zero_is_unknown=True),
    *_masked(Feature("saturation_rate", "share of its values that are 0", "LayerReport.saturation_rate")),
    *_masked(Feature("gradient_flow", "gradient norm of its layer", "LayerReport.gradient_norm", "log10 / 2")),
    Feature("computational_cost", "channels that it works on", "LayerSpec.output_channels", _LOG),
    Feature("position", "place in execution order", "layers", "0 first … 1 last"),
    Feature("nonlinearity", "1 where it is known and not the identity", "LayerSpec.activation_type", "0 or 1",
            told_by=("activation", "known")),
    Feature("layer_type", "kind of its layer", "LayerSpec.layer_type", "registry index / 64", table="layer_type"),
)  # fmt: skip

_SCORE = "z-score by the prior / 5, to ±1"
_PARAMETER: tuple[Feature, ...] = (
    Feature("parameter_count", "parameters of its layer", "LayerSpec.num_parameters", _LOG),
    Feature("learning_rate", "learning rate of the host; the layer nodes carry its mask", "learning_rate", "log10 / 2",
            told_by=("layer", "learning_rate_mask")),
    *_masked(Feature("gradient_variance", "variance of the gradient's elements", "LayerReport.gradient_variance", "log10 / 4")),
    *_masked(Feature("weight_norm", "L2 norm of the weights", "LayerReport.weight_norm", "log10, 1 becomes 0")),
    *_masked(Feature(
        "update_magnitude", "last epoch's weight change over the weight norm", "LayerReport.update_magnitude", "log10 / 2",
        in_training=False,
    )),
    Feature("position", "place in execution order", "layers", "0 first … 1 last"),
    Feature("parameter_share", "parameters of the host that are here", "LayerSpec.num_parameters", _SHARE),
    *_masked(Feature("momentum", "momentum of the optimizer, or Adam's first beta", "OptimizerState.momentum", _SCORE)),
    Feature("optimizer_family", "which optimizer", "OptimizerState.family", "registry index / 64",
            table="optimizer_family"),
    Feature(
        "parameter_count_score", "parameters, beside those of the catalogue's blueprints",
        "LayerSpec.num_parameters", f"log1p, {_SCORE}",
    ),
    Feature("learning_rate_score", "learning rate beside the usual", "learning_rate", f"log1p, {_SCORE}",
            told_by=("layer", "learning_rate_mask")),
    Feature(
        "gradient_variance_score", "gradient variance beside the usual", "LayerReport.gradient_variance", f"log1p, {_SCORE}",
        mask="gradient_variance_mask",
    ),
)  # fmt: skip

NODE_FEATURES: Mapping[str, tuple[Feature, ...]] = {"layer": _LAYER, "seed": _SEED, "activation": _ACTIVATION, "parameter": _PARAMETER}
"""Node type → its features in the order of their channels."""

EDGE_FEATURES: Mapping[EdgeType, tuple[Feature, ...]] = {
    ("layer", "connects", "layer"): (
        Feature("connection_strength", "strength over the largest fan-out", "layers"),
        Feature("data_flow_volume", "channels handed on", "LayerSpec.output_channels", "over the graph's largest"),
        Feature("flops_share", "work of the host that the destination does", "LayerSpec.flops", _SHARE),
        *_masked(Feature(
            "latency_ms", "time that the source layer takes", "LayerReport.latency_ms", "over the graph's largest", in_training=False
        )),
    ),
    ("seed", "monitors", "layer"): (
        Feature("monitoring_frequency", "share of steps in which the slot is measured", "SlotReport.gradient_norm, SeedTraits"),
        Feature("alpha", "alpha of the seed", "SeedStateReport.alpha"),
        *_masked(Feature(
            "adaptation_trigger_threshold", "change of loss that the seed answers to", "SeedTraits.adaptation_trigger_threshold",
            "over the graph's largest", in_training=False,
        )),
        Feature("is_bound", "1 where the slot is known to watch the layer, 0 where that is assumed", "SlotReport.layer_index", "0 or 1"),
    ),
    ("layer", "feeds", "activation"): (
        Feature("activation_frequency", "share of values that are not 0", "LayerReport.saturation_rate", mask="measured"),
        Feature("saturation_events", "share of values that are 0", "LayerReport.saturation_rate", mask="measured"),
        Feature("measured", "1 where saturation was measured", "LayerReport.saturation_rate", "0 or 1"),
    ),
    ("activation", "influences", "layer"): (
        Feature("gradient_contribution", "share of the gradient", "LayerReport.gradient_norm", _SHARE, mask="measured"),
        Feature("nonlinearity_strength", "1 where the activation is known and not the identity", "LayerSpec.activation_type",
                told_by=("activation", "known")),
        Feature("measured", "1 where the gradient was measured", "LayerReport.gradient_norm", "0 or 1"),
    ),
    ("parameter", "tunes", "layer"): (
        *_masked(Feature(
            "update_magnitude", "last epoch's weight change over the weight norm", "LayerReport.update_magnitude", "log10 / 2",
            in_training=False,
        )),
        *_masked(Feature("convergence_rate", "g²/(g² + variance) of the gradient", "LayerReport.gradient_norm, gradient_variance")),
    ),
    ("seed", "allowed", "parameter"): (Feature("may_act", "1 where any operation on the slot is legal", "masks", "0 or 1"),),
}  # fmt: skip
"""Relation → its attributes in the order of their channels."""
