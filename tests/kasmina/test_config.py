from __future__ import annotations

import pytest

from esper.kasmina.config import GrowthConfig, growth_limits
from esper.leyline.actions import BlendStyle, LifecycleOp
from esper.leyline.load import ConfigError, dump, load
from tests.fakes.catalogue import PLACES, FakeCatalogue


def test_every_blueprint_of_the_family_is_on_offer_by_default() -> None:
    assert growth_limits(GrowthConfig(), FakeCatalogue(), "cnn").blueprints == (PLACES["conv"], PLACES["norm"])


def test_limits_follow_the_config() -> None:
    config = GrowthConfig(blueprints=("norm",), styles=(BlendStyle.SIGMOID_ADD,), ops=(LifecycleOp.GERMINATE,), max_fossils=1)
    limits = growth_limits(config, FakeCatalogue(), "cnn")
    assert limits.blueprints == (PLACES["norm"],)
    assert limits.styles == (BlendStyle.SIGMOID_ADD,)
    assert limits.ops == (LifecycleOp.GERMINATE,)
    assert limits.max_fossils == 1


def test_a_blueprint_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"conv.*mlp.*linear"):
        growth_limits(GrowthConfig(blueprints=("conv",)), FakeCatalogue(), "mlp")


def test_the_config_survives_its_file() -> None:
    config = GrowthConfig(gates="strict", styles=(BlendStyle.GATED_GATE,), tempos=(2,))
    assert load(GrowthConfig, dump(config)) == config


@pytest.mark.parametrize("name", ["styles", "tempos"])
def test_a_choice_without_choices_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(GrowthConfig, {name: []})
