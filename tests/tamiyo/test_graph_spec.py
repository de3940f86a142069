"""The layout of observations: named ranges that do not overlap, masks that fit, and a digest that tells layouts apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS
from esper.tamiyo.features import EDGE_FEATURES, METRICS, NODE_FEATURES, Feature
from esper.tamiyo.graph_spec import EMBEDDED, GRAPH_SPEC, INDEX_SCALE, METRIC_CHANNELS, METRIC_MASKS, ONE_HOT, GraphSpec
from esper.tamiyo.registries import CAPACITY

QUICK_REFERENCE = {
    "layer": (
        "layer_type", "input_channels", "output_channels", "activation_type", "dropout_rate", "weight_norm", "gradient_norm",
        "update_frequency", *METRICS,
    ),
    "seed": (
        "seed_id", "monitoring_scope", "activity_level", "success_rate", "risk_tolerance", "specialization", "stage", "telemetry",
        "risk_score", "allowed_blending_methods", "quarantine_only", "policy_version", "alpha_schedule",
    ),
    "activation": ("activation_type", "saturation_rate", "gradient_flow", "computational_cost"),
    "parameter": ("parameter_count", "learning_rate", "momentum", "gradient_variance", "optimizer_family"),
}  # fmt: skip


@pytest.mark.parametrize("node_type", NODE_WIDTHS)
def test_every_feature_of_the_contract_has_channels_of_its_own(node_type: str) -> None:
    ranges = GRAPH_SPEC.channels[node_type]
    taken = np.concatenate([np.r_[where] for where in ranges.values()])
    assert len(set(taken.tolist())) == len(taken)
    assert taken.max() < NODE_WIDTHS[node_type]
    assert set(QUICK_REFERENCE[node_type]) <= ranges.keys()


def test_masks_cover_no_more_than_their_feature_and_are_there() -> None:
    for features in (*NODE_FEATURES.values(), *EDGE_FEATURES.values()):
        by_name = {f.name: f for f in features}
        assert len(by_name) == len(features)
        for feature in features:
            if feature.mask:
                assert by_name[feature.mask].size > feature.mask_start
                assert not feature.is_index


def test_metrics_and_their_masks_stand_in_one_order() -> None:
    for i, name in enumerate(METRICS):
        assert GRAPH_SPEC.channel("layer", name) == METRIC_CHANNELS.start + i
        assert GRAPH_SPEC.channel("layer", f"{name}_mask") == METRIC_MASKS.start + i


def test_indices_fit_their_channel() -> None:
    assert CAPACITY <= INDEX_SCALE
    indices = np.arange(INDEX_SCALE)
    np.testing.assert_array_equal(np.rint((indices / INDEX_SCALE).astype(np.float32) * INDEX_SCALE), indices)
    assert all(GRAPH_SPEC.feature(t, name).is_index for t in NODE_WIDTHS for name, _ in (*EMBEDDED[t], *ONE_HOT[t]))


def test_any_other_layout_has_another_digest() -> None:
    layer = NODE_FEATURES["layer"]
    swapped = GraphSpec({**NODE_FEATURES, "layer": (layer[1], layer[0], *layer[2:])}, EDGE_FEATURES)
    reworded = GraphSpec({**NODE_FEATURES, "layer": (replace(layer[0], meaning="other words"), *layer[1:])}, EDGE_FEATURES)
    assert swapped.digest != GRAPH_SPEC.digest == reworded.digest


def test_too_many_features_are_refused() -> None:
    wide = GraphSpec({"layer": (Feature("all", "too much", "nowhere", size=129),)}, {})
    with pytest.raises(ValueError, match="128 channels, its features need 129"):
        _ = wide.channels


def test_attributes_can_be_written_by_name() -> None:
    edge = ("seed", "monitors", "layer")
    rows = {edge: np.zeros((2, EDGE_WIDTHS[edge]))}
    GRAPH_SPEC.write_edges(edge, rows, alpha=np.array([0.5, 1.0]))
    assert rows[edge].sum(0).tolist() == [0.0, 1.5, 0.0, 0.0, 0.0]
