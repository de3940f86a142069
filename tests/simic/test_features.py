from __future__ import annotations

import numpy as np
import pytest

from esper.leyline.host import LayerSpec
from esper.leyline.reports import LayerReport
from esper.leyline.signals import SignalScale
from esper.leyline.stages import SeedStage
from esper.simic.features import FEATURE_DIMS, FeatureSet, active_seed, feature_set_of, features_of_report
from tests.simic.reports import make_report, make_seed

SCALE = SignalScale(max_epochs=12, max_steps=96, num_slots=2)
SPEC = LayerSpec("conv0", "conv2d", "relu", 1, 4, 0.0, 40, 1000, 0)


def layer(norm: float | None) -> LayerReport:
    return LayerReport(SPEC, None, norm, None, None, None)


@pytest.mark.parametrize(("which", "dim"), [("base", 27), ("seed", 37), ("model", 54), ("all", 64)])
def test_dimensions_are_those_of_the_contract(which: FeatureSet, dim: int) -> None:
    found = features_of_report(make_report(make_seed(), layers=(layer(1.0),)), which, SCALE)
    assert found.values.shape == found.mask.shape == (dim,)
    assert FEATURE_DIMS[which] == dim
    assert feature_set_of(dim) == which
    assert (np.abs(found.values) <= 1.0).all()
    assert found.values.dtype == np.float32


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="28"):
        feature_set_of(28)


def test_larger_sets_begin_like_smaller_ones() -> None:
    report = make_report(make_seed(), layers=(layer(1.0),))
    base, model, everything = (features_of_report(report, which, SCALE).values for which in ("base", "model", "all"))
    np.testing.assert_array_equal(model[:27], base)
    np.testing.assert_array_equal(everything[:54], model)
    np.testing.assert_array_equal(everything[54:], features_of_report(report, "seed", SCALE).values[27:])


def test_the_unmeasured_is_masked_and_never_looks_measured() -> None:
    found = features_of_report(make_report(), "all", SCALE)
    assert not found.mask[27:].any()
    assert (found.values[27:] == 0.0).all()


def test_unmeasured_gradients_of_a_living_seed_are_masked() -> None:
    found = features_of_report(make_report(make_seed(gradient_norm=2.5)), "seed", SCALE)
    assert found.mask[27:].tolist() == [True, False, False, False] + [True] * 6
    assert found.values[27] == 0.25


def test_layers_beyond_the_seventh_still_count_in_the_summary() -> None:
    report = make_report(layers=(*tuple(layer(1.0) for _ in range(8)), layer(1e-09), layer(1000.0)), gradient_norm=float("nan"))
    found = features_of_report(report, "model", SCALE)
    assert found.values[27] == 1.0
    assert found.values[29:32].tolist() == pytest.approx([0.1, 0.1, 0.87])
    assert found.values[44:51].tolist() == pytest.approx([0.1] * 7)
    assert found.values[53] == 1.0
    assert not found.mask[32:44].any()


def test_the_active_seed_is_the_furthest_that_is_not_permanent() -> None:
    fossil, young = make_seed(0, stage=SeedStage.FOSSILIZED), make_seed(1, stage=SeedStage.TRAINING)
    assert active_seed(make_report(fossil, young)) == young
    assert active_seed(make_report(fossil)) == fossil
    assert active_seed(make_report()) is None
