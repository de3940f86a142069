"""Names under which operators know what a step tells: each stands for a field of the step's event, and is written here only."""

from __future__ import annotations

from collections.abc import Mapping

NAME_OF_FIELD = {
    "gnn_inference_latency_ms": "tamiyo.gnn.inference.latency_ms",
    "gnn_inference_latency_p50_ms": "tamiyo.gnn.inference.latency_ms.p50",
    "gnn_inference_latency_p95_ms": "tamiyo.gnn.inference.latency_ms.p95",
    "gnn_compile_enabled": "tamiyo.gnn.compile_enabled",
    "gnn_compile_warm_ms": "tamiyo.gnn.compile_warm_ms",
    "gnn_feature_coverage": "tamiyo.gnn.feature_coverage",
    "gnn_feature_coverage_types": "tamiyo.gnn.feature_coverage",
    "blending_method": "tamiyo.blending.method",
}
"""Field of `TamiyoStepEvaluatedPayload` → metric; a field that holds several values adds the name of each behind a dot."""


def metrics_of(fields: Mapping[str, object]) -> dict[str, float | str]:
    """Metrics that an event's fields stand for; unmeasured ones are absent."""
    found: dict[str, float | str] = {}
    for field, name in NAME_OF_FIELD.items():
        value = fields.get(field)
        parts = {f"{name}.{part}": each for part, each in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, each in parts.items():
            if isinstance(each, str):
                found[key] = each
            elif isinstance(each, int | float):
                found[key] = float(each)
    return found
