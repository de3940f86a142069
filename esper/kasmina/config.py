"""How freely seeds may grow: gates, clocks, limits, and the choices on offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from esper.leyline.actions import ALPHA_TARGETS, TEMPO_EPOCHS, BlendStyle, LifecycleOp
from esper.leyline.load import ConfigError, setting
from esper.leyline.masks import MIN_PRUNE_AGE_EPOCHS, GrowthLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import HostFamily, InjectionSpec
    from esper.leyline.ports import Catalogue


@dataclass(frozen=True, slots=True)
class GrowthConfig:
    """Rules of one trial's growth."""

    gates: Literal["permissive", "strict"] = setting("permissive", "permissive asks that evidence exists, strict that it is good")
    auto_advance: bool = setting(False, "let seeds reach training, blending and holding by themselves when their gate opens")
    min_training_epochs: int = setting(10, "training before a seed may blend", unit="epochs", ge=0)
    min_gradient_health: float = setting(0.7, "gradient health that a seed needs to blend", ge=0.0, le=1.0)
    min_holding_epochs: int = setting(1, "holding before a seed may be fossilized", unit="epochs", ge=0)
    embargo_epochs: int = setting(5, "rest of a slot after a prune", unit="epochs", ge=0)
    resetting_epochs: int = setting(1, "clearing of a slot after its embargo", unit="epochs", ge=0)
    min_prune_age_epochs: int = setting(MIN_PRUNE_AGE_EPOCHS, "age before the policy may prune a seed", unit="epochs", ge=0)
    max_seeds: int = setting(3, "seeds alive at once, fossils and resting slots included", unit="seeds", ge=0)
    max_fossils: int = setting(2, "seeds that may become permanent", unit="seeds", ge=0)
    max_developing: int = setting(1, "seeds before their blend, and resting slots, at once", unit="seeds", ge=0)
    isolate_blending: bool = setting(False, "cut the gradient that reaches the host through a blending seed's input")
    ops: tuple[LifecycleOp, ...] = setting(tuple(LifecycleOp), "operations on offer; waiting always is")
    slots: tuple[str, ...] = setting((), "slots where seeds may grow, e.g. r0c1; empty means all of the host's")
    blueprints: tuple[str, ...] = setting((), "blueprints on offer; empty means all of the host's family")
    styles: tuple[BlendStyle, ...] = setting(tuple(BlendStyle), "blend styles on offer")
    tempos: tuple[int, ...] = setting((0, 1, 2), "indices of the tempos on offer: fast, standard, slow", ge=0, lt=len(TEMPO_EPOCHS))
    alpha_targets: tuple[int, ...] = setting(
        (0, 1, 2), "indices of the alpha targets on offer: 0.5, 0.7, 1; only a full blend can be fossilized", ge=0, lt=len(ALPHA_TARGETS)
    )
    strict_improvement: float = setting(0.5, "strict G2: accuracy gained in training", unit="points")
    strict_gradient_ratio: float = setting(0.10, "strict G2: seed to host gradient norm per square root of parameters", ge=0.0)
    strict_blending_epochs: int = setting(10, "strict G3: blending before holding", unit="epochs", ge=0)
    strict_contribution: float = setting(1.0, "strict G5: leave-one-out contribution", unit="points")

    def __post_init__(self) -> None:
        """Refuse a choice without choices.

        Raises:
            ConfigError: If no style, tempo or alpha target is on offer.
        """
        for name in ("styles", "tempos", "alpha_targets"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty: a new seed needs at least one")


def growth_limits(config: GrowthConfig, catalogue: Catalogue, family: HostFamily) -> GrowthLimits:
    """What the masks need to know about `config` for a host of `family`.

    Raises:
        ConfigError: If a blueprint on offer does not exist for the family.
    """
    known = catalogue.names(family)
    unknown = [name for name in config.blueprints if name not in known]
    if unknown:
        raise ConfigError(f"blueprints {unknown} do not exist for {family} hosts; known: {', '.join(known)}")
    return GrowthLimits(
        blueprints=tuple(catalogue.place(name) for name in config.blueprints or known),
        max_seeds=config.max_seeds,
        max_fossils=config.max_fossils,
        max_developing=config.max_developing,
        min_prune_age_epochs=config.min_prune_age_epochs,
        ops=config.ops,
        styles=config.styles,
        tempos=config.tempos,
        alpha_targets=config.alpha_targets,
    )


def chosen_slots(config: GrowthConfig, specs: Sequence[InjectionSpec]) -> tuple[InjectionSpec, ...]:
    """The host's slots that `config` offers, in the host's order.

    Raises:
        ConfigError: If a slot does not exist.
    """
    known = [spec.slot_id for spec in specs]
    unknown = [slot for slot in config.slots if slot not in known]
    if unknown:
        raise ConfigError(f"growth.slots: {', '.join(unknown)} do not exist; the host has {', '.join(known)}")
    return tuple(spec for spec in specs if not config.slots or spec.slot_id in config.slots)
