from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.schemas import RiskLevel
from esper.urza import Catalogue
from esper.urza.risk import assess_risk


@pytest.mark.parametrize(
    ("num_parameters", "level"),
    [
        (1, RiskLevel.YELLOW),
        (40, RiskLevel.YELLOW),
        (41, RiskLevel.ORANGE),
        (180, RiskLevel.ORANGE),
        (181, RiskLevel.RED),
        (720, RiskLevel.RED),
        (721, RiskLevel.CRITICAL),
    ],
)
def test_load_decides(num_parameters: int, level: RiskLevel) -> None:
    assert assess_risk(num_parameters, 4, rescales_only=False) is level
    assert assess_risk(num_parameters, 4, rescales_only=True) is RiskLevel.GREEN


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 512))
def test_more_parameters_are_never_less_risky(num_parameters: int, more: int, channels: int) -> None:
    assert assess_risk(num_parameters + more, channels, rescales_only=False) >= assess_risk(num_parameters, channels, rescales_only=False)
    assert assess_risk(num_parameters, channels + 1, rescales_only=False) <= assess_risk(num_parameters, channels, rescales_only=False)


@pytest.mark.parametrize("channels", [4, 8, 16, 64, 256])
def test_standard_blueprints_rank_as_expected(channels: int) -> None:
    catalogue = Catalogue.standard()
    risk = {spec.blueprint_id: spec.risk for spec in catalogue.specs("cnn", channels, 64)}
    assert {name for name, level in risk.items() if level is RiskLevel.GREEN} == {"norm", "attention", "spatial_attention"}
    assert risk["lora"] <= risk["depthwise"] <= risk["conv_light"] <= risk["conv_heavy"] == RiskLevel.RED
