"""The names of a step's metrics."""

from __future__ import annotations

from dataclasses import fields

from esper.leyline.telemetry import TamiyoStepEvaluatedPayload
from esper.tamiyo.service.metric_names import NAME_OF_FIELD, metrics_of


def test_every_name_stands_for_a_field_of_the_event() -> None:
    assert set(NAME_OF_FIELD) <= {field.name for field in fields(TamiyoStepEvaluatedPayload)}


def test_families_get_a_name_each_and_the_unmeasured_none() -> None:
    told = {
        "epoch": 3,
        "gnn_inference_latency_ms": 2.5,
        "gnn_compile_enabled": True,
        "gnn_compile_warm_ms": None,
        "gnn_feature_coverage": 0.5,
        "gnn_feature_coverage_types": {"layer": 0.25, "seed": 0.75},
        "blending_method": "cosine",
    }
    assert metrics_of(told) == {
        "tamiyo.gnn.inference.latency_ms": 2.5,
        "tamiyo.gnn.compile_enabled": 1.0,
        "tamiyo.gnn.feature_coverage": 0.5,
        "tamiyo.gnn.feature_coverage.layer": 0.25,
        "tamiyo.gnn.feature_coverage.seed": 0.75,
        "tamiyo.blending.method": "cosine",
    }
