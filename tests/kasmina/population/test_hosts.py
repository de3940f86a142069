"""The shipped hosts, stacked: the numbers of the plain hosts, at every layer and every slot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.hosts import CNNHost, CNNHostConfig, MLPHost, MLPHostConfig, TransformerHost, TransformerHostConfig
from esper.kasmina.population.hosts import StackedHost, stacked_host
from esper.kasmina.population.stack import StackPlan
from tests.kasmina.population.members import SEEDS, grown, randn, stack_parameters, to_plain

Host = CNNHost | MLPHost | TransformerHost
CNN = CNNHostConfig(num_classes=8)
TRANSFORMER = TransformerHostConfig(vocab_size=7, context_length=6, num_classes=5)
RECIPES: dict[str, CNNHostConfig | MLPHostConfig | TransformerHostConfig] = {
    "plain": replace(CNN, widths=(8, 16, 32), kernels=(3, 3, 3)),
    "wide": replace(CNN, widths=(8, 12, 16), kernels=(3, 3, 3)),
    "blind": CNN,
    "blind-fine": replace(CNN, pools=(1, 2, 1)),
    "blind0": replace(CNN, kernels=(1, 1, 3)),
    "linear": replace(CNN, kernels=(3, 3, 3), activation="identity"),
    "atten": replace(CNN, kernels=(3, 3, 3), attenuated_stage=1, attenuation=0.005, offset=0.2),
    "impaired": replace(CNN, widths=(1, 2, 4), kernels=(1, 1, 1)),
    "odd image": replace(CNN, in_channels=3, image_size=11, kernels=(5, 3, 3), pools=(2, 1, 3)),
    "t-full": TRANSFORMER,
    "t-noattn": replace(TRANSFORMER, has_attention=False),
    "t-nomlp": replace(TRANSFORMER, has_mlp=False),
    "t-every": replace(TRANSFORMER, readout="every", dim=6, num_heads=3, mlp_ratio=3),
    "mlp": MLPHostConfig(in_features=9, num_classes=3),
    "mlp-linear": MLPHostConfig(in_features=9, num_classes=3, widths=(5, 4), activation="identity"),
}


def make_host(recipe: str) -> Host:
    config = RECIPES[recipe]
    if isinstance(config, CNNHostConfig):
        return CNNHost(config)
    return MLPHost(config) if isinstance(config, MLPHostConfig) else TransformerHost(config)


def make_inputs(recipe: str, num_members: int, *, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    config = RECIPES[recipe]
    if isinstance(config, TransformerHostConfig):
        generator = SEEDS.child("tokens").torch()
        return torch.randint(config.vocab_size, (num_members, batch, config.context_length), generator=generator)
    if isinstance(config, MLPHostConfig):
        return randn(num_members, batch, 3, 3, dtype=dtype)
    return randn(num_members, batch, config.in_channels, config.image_size, config.image_size, dtype=dtype)


def twin(host: nn.Module) -> StackedHost:
    stacked = stacked_host(host)
    assert stacked is not None
    return stacked


def run_stacked(hosts: list[nn.Module], x: Tensor, visited: dict[str, Tensor]) -> list[Tensor]:
    """Logits and the gradient of every parameter; values at slots and layers go to `visited`, as in plain hosts."""
    parameters = stack_parameters(hosts)
    layers = StackPlan(hosts[0]).bind(parameters)
    host = twin(hosts[0])

    def keep(name: str, value: Tensor) -> None:
        visited[name] = to_plain("cnn", value) if value.ndim == 5 else value

    def visit(segment: int, value: Tensor) -> Tensor:
        keep(f"segment {segment}", value)
        return value * 1.5

    logits = host.run(lambda: layers, host.arrange(x), visit, keep)
    return [logits, *torch.autograd.grad(logits.square().sum(), parameters)]


def run_alone(host: nn.Module, x: Tensor, visited: dict[str, Tensor]) -> list[Tensor]:
    """The same from the host's own forward pass."""
    assert isinstance(host, CNNHost | MLPHost | TransformerHost)

    def watch(name: str) -> None:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            visited[name] = output

        host.get_submodule(name).register_forward_hook(keep)

    def visit(segment: int, value: Tensor) -> Tensor:
        visited[f"segment {segment}"] = value
        return value * 1.5

    for layer in host.layer_specs():
        watch(layer.layer_id)
    logits = host.run(x, visit)
    return [logits, *torch.autograd.grad(logits.square().sum(), list(host.parameters()))]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("num_members", [1, 3])
def test_logits_gradients_and_layers_are_those_of_the_plain_hosts(recipe: str, num_members: int) -> None:
    hosts = grown(lambda: make_host(recipe), num_members)
    x = make_inputs(recipe, num_members, batch=4)
    visited: dict[str, Tensor] = {}
    together = run_stacked(hosts, x, visited)
    for member, host in enumerate(hosts):
        expected: dict[str, Tensor] = {}
        for ours, plain in zip(together, run_alone(host, x[member], expected), strict=True):
            torch.testing.assert_close(ours[member], plain, rtol=1e-9, atol=1e-9)
        assert set(visited) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(visited[name][member], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("batch", [3, 32])
def test_a_member_computes_the_same_bits_alone_and_among_others(recipe: str, batch: int) -> None:
    hosts = grown(lambda: make_host(recipe), 5, torch.float32)
    x = make_inputs(recipe, 5, batch=batch, dtype=torch.float32)
    together = run_stacked(hosts, x, {})
    for first, last in ((0, 1), (2, 3), (4, 5), (3, 5)):
        for mine, everyones in zip(run_stacked(hosts[first:last], x[first:last], {}), together, strict=True):
            assert torch.equal(mine, everyones[first:last])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_broken_member_leaves_the_others_alone(recipe: str) -> None:
    hosts = grown(lambda: make_host(recipe), 3, torch.float32)
    x = make_inputs(recipe, 3, batch=5, dtype=torch.float32)
    healthy = run_stacked(hosts, x, {})
    with torch.no_grad():
        for parameter in hosts[1].parameters():
            parameter.fill_(torch.nan)
    for before, after in zip(healthy, run_stacked(hosts, x, {}), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_a_visit_may_return_other_members() -> None:
    hosts = grown(lambda: make_host("blind"), 2)
    x = make_inputs("blind", 2, batch=4)
    order = [0, 1]
    tensors = stack_parameters(hosts)
    plan, host = StackPlan(hosts[0]), twin(hosts[0])

    def visit(segment: int, value: Tensor) -> Tensor:
        if segment != 1:
            return value
        order[:] = [1, 0, 1]
        return value[order]

    logits = host.run(lambda: plan.bind([tensor[order] for tensor in tensors]), host.arrange(x), visit)
    for row, member in enumerate([1, 0, 1]):
        torch.testing.assert_close(logits[row], run_plain(hosts[member], x[member]))


def run_plain(host: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(host, CNNHost)
    return host.run(x, lambda _, value: value)


def test_a_foreign_host_has_no_twin() -> None:
    assert stacked_host(nn.Linear(2, 2)) is None
