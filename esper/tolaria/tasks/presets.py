"""The task presets that Esper ships."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esper.leyline.load import ConfigError
from esper.tolaria.tasks.base import SampleCounts, TaskPreset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.tolaria.config import TaskConfig

_WIDTHS = (0.75, 1.0)
_HELDOUT_WIDTHS = (1.25,)
CUSTOM = "custom"
"""Preset, and task, whose hosts and data a user's function makes."""
_ALL = SampleCounts(sys.maxsize, sys.maxsize, sys.maxsize)


def find_preset(config: TaskConfig) -> TaskPreset:
    """The preset that a config names, with the config's own sizes in place of the preset's.

    Raises:
        ConfigError: If no preset has that name.
    """
    known = {preset.name: preset for preset in presets()}
    if config.preset not in known:
        raise ConfigError(f"task.preset={config.preset!r} is unknown; known: {', '.join(known)}")
    preset = known[config.preset]
    counts = SampleCounts(
        train=config.num_train or preset.counts.train,
        val=config.num_val or preset.counts.val,
        test=config.num_test or preset.counts.test,
    )
    return replace(
        preset,
        counts=counts,
        max_epochs=config.max_epochs or preset.max_epochs,
        batch_size=config.batch_size or preset.batch_size,
        learning_rate=config.learning_rate or preset.learning_rate,
    )


def presets() -> tuple[TaskPreset, ...]:
    """Every preset, those that need no download first."""
    return (
        TaskPreset(
            name="smoke",
            train_pairs=(("digits8", "blind0"), ("digits8", "atten")),
            train_widths=_WIDTHS,
            heldout_pairs=(("digits8", "blind"),),
            heldout_widths=_HELDOUT_WIDTHS,
            counts=SampleCounts(512, 384, 900),
            max_epochs=12,
            growth=_quick_growth("norm", "attention", "conv_small", "conv_light", "lora"),
            batch_size=32,
            learning_rate=0.015,
            rent_reference_params=1000,
        ),
        TaskPreset(
            name="image-mix",
            train_pairs=(("where", "blind-fine"), ("texture", "linear"), ("texture", "wide"), ("digits", "atten"), ("relation", "blind")),
            train_widths=_WIDTHS,
            heldout_pairs=(("texture", "atten"), ("relation", "atten"), ("where", "linear")),
            heldout_widths=_HELDOUT_WIDTHS,
            counts=SampleCounts(512, 384, 900),
            max_epochs=12,
            growth=_quick_growth("norm", "attention", "spatial_attention", "conv_small", "conv_light", "conv_heavy"),
            batch_size=32,
            learning_rate=0.015,
            rent_reference_params=1000,
        ),
        TaskPreset(
            name="recall-compose",
            train_pairs=(("recall", "t-noattn"), ("modadd", "t-nomlp"), ("markov", "t-noattn")),
            train_widths=_WIDTHS,
            heldout_pairs=(("recall", "t-nomlp"), ("markov", "t-nomlp")),
            heldout_widths=_HELDOUT_WIDTHS,
            counts=SampleCounts(768, 400, 1000),
            max_epochs=20,
            growth=_quick_growth("norm", "lora", "causal_conv", "mlp", "attention"),
            learning_rate=0.015,
            rent_reference_params=1000,
        ),
        _user_preset("digits-mlp", (("digits-vector", "mlp"), ("digits-vector", "mlp-linear")), counts=SampleCounts(512, 384, 900)),
        _user_preset("cifar10", (("cifar10", "plain"), ("cifar10", "impaired")), counts=SampleCounts(5120, 1024, 2048)),
        _user_preset("cifar100", (("cifar100", "plain"), ("cifar100", "impaired")), counts=SampleCounts(5120, 1024, 2048)),
        _user_preset("parquet-images", (("parquet-images", "plain"),), counts=SampleCounts(5120, 1024, 2048)),
        _user_preset("parquet-tokens", (("parquet-tokens", "t-full"),), counts=SampleCounts(5120, 1024, 2048)),
        replace(_user_preset(CUSTOM, ((CUSTOM, "factory"),), counts=_ALL), heldout_widths=()),
    )


def _quick_growth(*blueprints: str) -> Mapping[str, Any]:
    """Growth within a dozen or two epochs: short training, gates that open by themselves, at most two fossils.

    Only the fast tempo leaves time to use what has grown, and how an alpha rises makes no measurable difference in so few
    epochs; both choices, and changing an alpha on the way, are left to longer tasks.
    """
    return {
        "blueprints": blueprints,
        "ops": ("WAIT", "GERMINATE", "PRUNE", "FOSSILIZE", "ADVANCE"),
        "styles": ("LINEAR_ADD",),
        "tempos": (0,),
        "alpha_targets": (2,),
        "max_fossils": 2,
        "max_developing": 2,
        "min_training_epochs": 2,
        "auto_advance": True,
        "min_holding_epochs": 1,
    }


def _user_preset(name: str, pairs: tuple[tuple[str, str], ...], *, counts: SampleCounts) -> TaskPreset:
    """A longer run with every blueprint of the family and no held-out pair."""
    return TaskPreset(
        name=name,
        train_pairs=pairs,
        train_widths=(1.0,),
        heldout_pairs=(),
        heldout_widths=_HELDOUT_WIDTHS,
        counts=counts,
        max_epochs=30,
        growth={"max_fossils": 2, "max_developing": 2, "min_training_epochs": 3, "auto_advance": True, "min_holding_epochs": 1},
        batch_size=128,
    )
