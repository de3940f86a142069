"""Coverage: what is told raises it, what is not told lowers it, and empty slots say nothing about seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.graph import EDGE_WIDTHS, NODE_WIDTHS, GraphBatch
from esper.leyline.traits import SeedTraits
from esper.tamiyo import GraphBuilder
from esper.tamiyo.coverage import coverage_of
from esper.tamiyo.graph_spec import GRAPH_SPEC, family_name
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_report, make_seed

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport


def build(*reports: TrialReport) -> GraphBatch:
    return GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build(reports)


def test_half_of_the_layers_measured_is_half() -> None:
    report = make_report(num_layers=4)
    layers = tuple(replace(x, weight_norm=0.0 if i < 2 else None) for i, x in enumerate(report.layers))
    by_feature = coverage_of(build(replace(report, layers=layers))).by_feature
    assert by_feature["layer.weight_norm"] == by_feature["parameter.weight_norm"] == 0.5
    assert by_feature["layer.gradient_norm"] == 0.0
    assert by_feature["layer.position"] == 1.0


def test_seed_features_count_over_occupied_slots() -> None:
    told = make_seed(1, traits=SeedTraits(risk_score=0.0, quarantine_only=False), contribution=0.0)
    by_feature = coverage_of(build(make_report((None, told, make_seed(2))))).by_feature
    for name in ("risk_score", "quarantine_only", "contribution"):
        assert by_feature[f"seed.{name}"] == 0.5
    assert by_feature["seed.blueprint"] == 1.0
    nothing_grows = coverage_of(build(make_report())).by_feature
    assert "seed.risk_score" not in nothing_grows
    assert "seed.slot_stats" in nothing_grows


def test_partly_masked_features_count_by_channel() -> None:
    silent = coverage_of(build(make_report((make_seed(0), None, None)))).by_feature["seed.telemetry"]
    telling = make_seed(0, gradient_norm=1.0, gradient_health=1.0, has_vanishing=False, has_exploding=False)
    assert silent == pytest.approx(0.6)
    assert coverage_of(build(make_report((telling, None, None)))).by_feature["seed.telemetry"] == 1.0


def test_an_unknown_learning_rate_is_covered_nowhere() -> None:
    told, untold = (coverage_of(build(make_report(learning_rate=rate))).by_feature for rate in (0.01, None))
    for name in ("layer.learning_rate", "parameter.learning_rate", "parameter.learning_rate_score"):
        assert (told[name], untold[name]) == (1.0, 0.0)
    both = coverage_of(build(make_report(), make_report(learning_rate=None))).by_feature
    assert both["parameter.learning_rate"] == 0.5


def test_an_activation_that_the_host_does_not_tell_is_not_covered() -> None:
    by_feature = coverage_of(build(make_report(num_layers=4))).by_feature
    for name in (
        "layer.activation_known",
        "activation.known",
        "activation.nonlinearity",
        "activation-influences-layer.nonlinearity_strength",
    ):
        assert by_feature[name] == by_feature["layer.activation_type"] == 0.5


def test_families_weigh_features_by_what_they_apply_to() -> None:
    coverage = coverage_of(build(make_report((make_seed(0), None, None))))
    of_seed = {f.name: f.of_seed for f in GRAPH_SPEC.nodes["seed"]}
    shares = {k.removeprefix("seed."): v for k, v in coverage.by_feature.items() if k.startswith("seed.")}
    weights = {name: 1 if of_seed[name] else 3 for name in shares}
    assert coverage.by_family["seed"] == pytest.approx(sum(shares[n] * w for n, w in weights.items()) / sum(weights.values()))
    assert coverage.average == pytest.approx(float(np.mean(list(coverage.by_feature.values()))))
    assert coverage.by_family.keys() == {*NODE_WIDTHS, *map(family_name, EDGE_WIDTHS)}


def test_more_told_covers_more() -> None:
    rng = np.random.default_rng(0)
    little, much = coverage_of(build(make_report())), coverage_of(build(busy_report(rng)))
    assert 0.0 < little.average < much.average < 1.0
    assert all(0.0 <= share <= 1.0 for share in (*much.by_feature.values(), *much.by_family.values()))


def test_relations_without_edges_are_absent() -> None:
    by_family = coverage_of(build(make_report(num_layers=1))).by_family
    assert "layer-connects-layer" not in by_family
    assert "layer-feeds-activation" in by_family


def test_the_table_shows_every_feature_with_its_share() -> None:
    batch = build(make_report())
    table = GRAPH_SPEC.table(coverage_of(batch).by_feature)
    num_features = sum(len(f) for f in (*GRAPH_SPEC.nodes.values(), *GRAPH_SPEC.edges.values()))
    assert len(table.splitlines()) == 2 + num_features
    assert "| layer | 0 | layer_type |" in table
    assert "100%" in table
