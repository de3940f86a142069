from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.leyline.rng import SeedTree
from esper.urza import Catalogue
from esper.urza.transformer import num_heads

SEEDS = SeedTree(0, ("urza", "transformer"))
NAMES = Catalogue.standard().names("transformer")
MIXING = ("attention", "causal_conv")


def grown(name: str, channels: int) -> nn.Module:
    """The blueprint with every parameter moved at random."""
    generator = SEEDS.child("grown").torch()
    with SEEDS.child(name).torch_scope():
        module = Catalogue.standard().build(name, "transformer", channels, 9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    return module


def tokens(channels: int, *, length: int = 9) -> Tensor:
    return torch.randn(2, length, channels, generator=SEEDS.child("tokens").torch())


def influence(module: nn.Module, channels: int, position: int) -> Tensor:
    """[T] largest change of the output at each position when the input at one position changes."""
    h = tokens(channels)
    touched = h.clone()
    touched[:, position] += torch.linspace(1.0, 2.0, channels) * torch.sign(-h[:, position])
    with torch.no_grad():
        change: Tensor = module(touched) - module(h)
    return change.abs().amax(dim=(0, 2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 8, 16])
@pytest.mark.parametrize("position", [0, 4, 8])
def test_no_position_sees_a_later_one(name: str, channels: int, position: int) -> None:
    change = influence(grown(name, channels), channels, position)
    assert float(change[position]) > 1e-3
    assert float(change[:position].sum()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_is_computed_alike_alone(name: str) -> None:
    module, h = grown(name, 8), tokens(8)
    torch.testing.assert_close(module(h[:, :5]), module(h)[:, :5], rtol=1e-4, atol=1e-5)


def test_causal_conv_sees_exactly_the_last_four_positions() -> None:
    seen = influence(grown("causal_conv", 8), 8, 2) > 1e-4
    assert seen.tolist() == [False, False, True, True, True, True, False, False, False]


def test_attention_sees_the_whole_past() -> None:
    assert bool((influence(grown("attention", 8), 8, 0) > 1e-5).all())


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MIXING)))
def test_other_blueprints_keep_positions_apart(name: str) -> None:
    seen = influence(grown(name, 8), 8, 4) > 1e-5
    assert seen.tolist() == [index == 4 for index in range(9)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("lora", "lora_large", "norm")])
def test_branches_do_not_depend_on_the_scale_of_the_stream(name: str) -> None:
    module, h = grown(name, 8), tokens(8)
    torch.testing.assert_close(module(100.0 * h) - 100.0 * h, module(h) - h, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (2, 2), (3, 3), (5, 1), (6, 3), (8, 4), (12, 4), (384, 4)])
def test_heads_divide_the_width(channels: int, heads: int) -> None:
    assert num_heads(channels) == heads


def accuracy_of_copying(name: str, distance: int) -> float:
    """Percent of tokens said right that stood `distance` positions before, after 200 steps behind a linear host."""
    vocabulary, channels, length = 6, 12, 8
    with SEEDS.child("copy", name).torch_scope():
        embed, head = nn.Embedding(vocabulary, channels), nn.Linear(channels, vocabulary)
        seed = Catalogue.standard().build(name, "transformer", channels, length)
    parameters = [*embed.parameters(), *seed.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    generator = SEEDS.child("copy", "samples").torch()
    correct = torch.zeros(())
    for _ in range(200):
        sequence = torch.randint(vocabulary, (32, length), generator=generator)
        logits = head(seed(embed(sequence)))[:, distance:]
        target = sequence[:, : length - distance]
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()))
        optimizer.step()
        correct = (logits.argmax(-1) == target).float().mean()
    return 100.0 * float(correct)


def test_causal_conv_copies_from_the_past_and_a_perceptron_cannot() -> None:
    assert accuracy_of_copying("causal_conv", 1) > 95.0
    assert accuracy_of_copying("mlp", 1) < 45.0
