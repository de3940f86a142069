"""What a wrapped model tells of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.kasmina.grad_probe import probe
from esper.kasmina.wrap import wrap
from tests.fakes.users import NUM_CLASSES, Images, Residual, Tokens, Vectors, images, tokens, vectors
from tests.kasmina.wrapping.hosts import growing, wrapped

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily


@pytest.mark.parametrize("family", ["cnn", "transformer", "mlp"])
def test_layers_are_submodules_and_account_for_every_parameter(family: HostFamily) -> None:
    host, x = wrapped(family)
    layers = host.layer_specs()
    for layer in layers:
        assert sum(p.numel() for p in host.get_submodule(layer.layer_id).parameters()) == layer.num_parameters
    assert sum(layer.num_parameters for layer in layers) == sum(p.numel() for p in host.parameters())
    segments = [layer.segment for layer in layers]
    assert segments == sorted(segments)
    assert segments[-1] == 2
    found = probe(growing(host), x, torch.arange(len(x)) % NUM_CLASSES)
    assert all(layer.weight_norm is not None and layer.gradient_norm is not None for layer in found.layers)


def test_layers_tell_their_kind_activation_dropout_and_widths() -> None:
    layers = {spec.layer_id: spec for spec in wrap(Images(dropout=0.25), ["stage1"], example=images()).layer_specs()}
    kinds = {
        name.removeprefix("model."): (s.layer_type, s.activation_type, s.input_channels, s.output_channels) for name, s in layers.items()
    }
    assert kinds["stem.0"] == ("conv2d", None, 3, 8)
    assert kinds["stem.1"] == ("batch_norm", "relu", 8, 8)
    assert kinds["head"] == ("linear", None, 16, NUM_CLASSES)
    read = {spec.layer_id: spec for spec in wrap(Tokens(), ["embedding"], example=tokens()).layer_specs()}
    assert read["model.embedding"].layer_type == "embedding"
    attention = read["model.encoder.layers.0.self_attn"]
    assert (attention.layer_type, attention.dropout_rate, attention.flops) == ("attention", 0.1, 6 * (4 * 12 * 12 + 2 * 6 * 12))
    assert [s.activation_type for s in wrap(Vectors(), ["2"], example=vectors()).layer_specs()] == [None, "tanh", "gelu", None]


def test_costs_are_what_torch_counts() -> None:
    user = Images().eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        user(images(1))
    layers = wrap(user, ["stage1"], example=images()).layer_specs()
    assert sum(s.flops for s in layers if s.layer_type in ("conv2d", "linear")) == counter.get_total_flops() // 2


def test_the_layers_of_a_large_model_are_told_by_blocks() -> None:
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(*(Residual(4) for _ in range(30))), nn.Flatten(), nn.Linear(256, NUM_CLASSES))
    host = wrap(deep, {"1.3": "r0c0", "1": "r0c1"}, example=images())
    layers = host.layer_specs()
    assert [s.layer_id for s in layers] == ["model.0", *(f"model.1.{i}" for i in range(30)), "model.3"]
    assert sum(s.num_parameters for s in layers) == sum(p.numel() for p in host.parameters())
    assert growing(host).slot_layers() == (4, 30)
