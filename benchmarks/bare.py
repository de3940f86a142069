"""Hosts trained and validated as short as PyTorch allows: no slots, no augmentation, no reports. What is left of its speed is P1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.workloads import SEEDS, cnn_of
from esper.kasmina.hosts.cnn import ConvStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tolaria.engine.base import TrainingPlan
    from esper.tolaria.tasks.base import Episode

Layout = Literal["contiguous", "channels_last", "channels_last_bf16"]
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels_last", "channels_last_bf16")


def train_each(episodes: Sequence[Episode], plan: TrainingPlan, layout: Layout) -> int:
    """Train hosts one after another; returns the epochs of all."""
    for episode in episodes:
        _train_one(episode, plan, layout)
    return len(episodes) * plan.max_epochs


def train_in_channels(episodes: Sequence[Episode], plan: TrainingPlan, layout: Layout) -> int:
    """Train hosts of one shape side by side in the channels of grouped convolutions; returns the epochs of all."""
    groups: dict[object, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(cnn_of(episode).config, []).append(episode)
    for alike in groups.values():
        _train_group(alike, plan, layout)
    return len(episodes) * plan.max_epochs


def _train_one(episode: Episode, plan: TrainingPlan, layout: Layout) -> None:
    host, data, memory = cnn_of(episode), episode.dataset, _memory(layout)
    network = torch.nn.Sequential(*host.stages, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), host.classifier)
    torch.nn.utils.convert_conv2d_weight_memory_format(network, memory)
    train_x, val_x = (x.contiguous(memory_format=memory) for x in (data.train_x, data.val_x))
    generator = SEEDS.child("bare").torch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, fused=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=layout == "channels_last_bf16"):
        for _ in range(plan.max_epochs):
            for index in torch.randperm(len(train_x), generator=generator).split(plan.batch_size):
                loss = F.cross_entropy(network(train_x[index]), data.train_y[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                (network(val_x).argmax(1) == data.val_y).sum().item()


def _train_group(episodes: Sequence[Episode], plan: TrainingPlan, layout: Layout) -> None:
    hosts, parts = [cnn_of(episode) for episode in episodes], [episode.dataset for episode in episodes]
    weights = [torch.stack(tensors).detach().flatten(0, 1) for tensors in zip(*(tuple(host.parameters()) for host in hosts), strict=True)]
    memory, num = _memory(layout), len(hosts)
    weights = [w.contiguous(memory_format=memory) if w.ndim == 4 else w for w in weights]
    optimizer = torch.optim.AdamW([w.requires_grad_() for w in weights], lr=plan.learning_rate, fused=True)
    stages = [stage for stage in hosts[0].stages if isinstance(stage, ConvStage)]
    generator = SEEDS.child("bare").torch()
    count = len(parts[0].train_y)
    val_x = torch.cat([part.val_x for part in parts], 1).contiguous(memory_format=memory)
    val_y = torch.stack([part.val_y for part in parts], 1)

    def network(x: Tensor) -> Tensor:
        """[B, K · C, H, W] → [B, K, classes]."""
        for i, stage in enumerate(stages):
            x = F.avg_pool2d(x, stage.pool) if stage.pool > 1 else x
            x = F.conv2d(x, weights[2 * i], weights[2 * i + 1], padding="same", groups=num)
            x = x if stage.attenuation is None else x * stage.attenuation[0] + stage.attenuation[1]
            x = x if stage.is_linear else torch.relu(x)
        pooled = x.mean((2, 3)).view(len(x), num, -1)
        matrix, bias = weights[-2].view(num, -1, pooled.shape[2]), weights[-1].view(num, -1)
        return torch.einsum("bkc,koc->bko", pooled, matrix) + bias

    with torch.autocast("cpu", torch.bfloat16, enabled=layout == "channels_last_bf16"):
        for _ in range(plan.max_epochs):
            orders = torch.stack([torch.randperm(count, generator=generator) for _ in parts], 1)
            for index in orders.split(plan.batch_size):
                pairs = [(part.train_x[own], part.train_y[own]) for part, own in zip(parts, index.unbind(1), strict=True)]
                x = torch.cat([x for x, _ in pairs], 1).contiguous(memory_format=memory)
                y = torch.stack([y for _, y in pairs], 1)
                loss = F.cross_entropy(network(x).flatten(0, 1).float(), y.flatten()) * num
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                (network(val_x).argmax(2) == val_y).sum(0).tolist()


def _memory(layout: Layout) -> torch.memory_format:
    return torch.contiguous_format if layout == "contiguous" else torch.channels_last
