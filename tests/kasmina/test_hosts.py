from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from esper.kasmina.hosts import CNNHost, CNNHostConfig, TransformerHost, TransformerHostConfig
from esper.leyline.load import ConfigError
from tests.fakes.growth import backward, make_batch, make_host, make_model, run_plain

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily, HostProtocol

FAMILIES: tuple[HostFamily, ...] = ("cnn", "transformer", "mlp")


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("kernels", "num_classes", "expected"),
    [((3, 1, 1), 10, 216), ((1, 1, 3), 10, 568), ((3, 3, 3), 8, 774)],
)
def test_cnn_sizes(kernels: tuple[int, ...], num_classes: int, expected: int) -> None:
    assert num_parameters(CNNHost(CNNHostConfig(kernels=kernels, num_classes=num_classes))) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_describe_the_values_they_receive(family: HostFamily) -> None:
    host: HostProtocol = make_host(family)
    x, _ = make_batch(family)
    specs = {spec.segment: spec for spec in host.injection_specs()}
    assert [spec.slot_id for spec in host.injection_specs()] == [f"r0c{i}" for i in range(len(specs))]
    logits, values = run_plain(host, x)
    assert list(values) == sorted(specs)
    for segment, value in values.items():
        channel_axis = 1 if family == "cnn" else -1
        assert value.shape[channel_axis] == specs[segment].channels
        assert value[0].numel() == specs[segment].channels * specs[segment].positions
    assert logits.shape == (len(x), 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_account_for_every_parameter(family: HostFamily) -> None:
    host = make_host(family)
    layers = host.layer_specs()
    assert sum(layer.num_parameters for layer in layers) == num_parameters(host)
    for layer in layers:
        assert num_parameters(host.get_submodule(layer.layer_id)) == layer.num_parameters
    segments = [layer.segment for layer in layers]
    assert segments == sorted(segments)
    assert segments[-1] == 1 + max(spec.segment for spec in host.injection_specs())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_parameter(family: HostFamily) -> None:
    model = make_model(family)
    backward(model, *make_batch(family))
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_computes_with_its_own_weights(family: HostFamily) -> None:
    model = make_model(family)
    x, _ = make_batch(family)
    before = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert torch.equal(model(x), before)


def test_an_attenuated_stage_drowns_its_signal_in_a_constant() -> None:
    x, _ = make_batch("cnn")
    plain = CNNHost(CNNHostConfig(activation="identity"))
    drowned = CNNHost(CNNHostConfig(activation="identity", attenuated_stage=0, attenuation=0.1, offset=3.0))
    drowned.load_state_dict(plain.state_dict())
    torch.testing.assert_close(run_plain(drowned, x)[1][0], 0.1 * run_plain(plain, x)[1][0] + 3.0)


def test_an_identity_host_is_linear_in_its_input() -> None:
    host = make_model("cnn").host
    linear = CNNHost(CNNHostConfig(num_classes=5, activation="identity"))
    x, _ = make_batch("cnn")

    @torch.no_grad()
    def bend(net: HostProtocol) -> float:
        forth, back, middle = (run_plain(net, value)[0] for value in (x, -x, 0 * x))
        return float((forth + back - 2 * middle).abs().max())

    assert bend(linear) < 1e-5
    assert bend(host) > 1e-4


@pytest.mark.parametrize(("attention", "mlp"), [(True, True), (True, False), (False, True)])
def test_a_transformer_reads_tokens_causally(attention: bool, mlp: bool) -> None:
    config = TransformerHostConfig(11, 6, 5, has_attention=attention, has_mlp=mlp, readout="every")
    model = TransformerHost(config)
    x, _ = make_batch("transformer")
    changed = x.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11

    def run(tokens: torch.Tensor) -> torch.Tensor:
        return run_plain(model, tokens)[0]

    assert run(x).shape == (6, 6, 5)
    torch.testing.assert_close(run(x)[:, :4], run(changed)[:, :4])
    assert not torch.allclose(run(x)[:, 4:], run(changed)[:, 4:])


def test_a_missing_part_is_absent() -> None:
    types = [layer.layer_type for layer in TransformerHost(TransformerHostConfig(has_attention=False)).layer_specs()]
    assert "attention" not in types
    names = [layer.layer_id for layer in TransformerHost(TransformerHostConfig(has_mlp=False)).layer_specs()]
    assert names == ["embedding", "blocks.0.attention", "blocks.1.attention", "classifier"]


@pytest.mark.parametrize(
    "options",
    [{"kernels": (3, 1)}, {"kernels": (2, 1, 1)}, {"pools": (4, 4, 4)}, {"attenuated_stage": 3}, {"widths": ()}],
)
def test_stages_that_do_not_fit_are_refused(options: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError):
        CNNHostConfig(**options)  # type: ignore[arg-type]


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ConfigError, match="num_heads"):
        TransformerHostConfig(dim=12, num_heads=5)
