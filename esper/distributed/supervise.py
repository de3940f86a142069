"""Decisions about lost parts: when to start one again, when to do without it, and who has been silent for too long.

Pure: time comes in as a number, and what was decided goes out. `esper.distributed.crew` acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper.distributed.config import ClusterConfig

K = TypeVar("K")


class Fault(StrEnum):
    """What befell a part."""

    DIED = "died"
    HUNG = "hung"
    """It gave no sign of life, or did not answer within `cluster.call_timeout_sec`."""
    DATA_LOST = "data_lost"
    """What it had handed over vanished with its node."""


class Remedy(StrEnum):
    """What is done about it."""

    RESTART = "restart"
    DROP = "drop"
    """The run goes on smaller; the part is tried again later."""
    GIVE_UP = "give_up"
    """The run cannot go on."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one part."""

    faults: tuple[float, ...] = ()
    """Times of the faults that still count, in seconds, ascending."""
    num_faults: int = 0
    """All faults so far."""
    is_working: bool = True
    is_dropped: bool = False
    due_at: float | None = None
    """When it is to be started again; None while it works or starts."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A remedy, and the part's health with it."""

    remedy: Remedy
    health: Health


def restart_delay(num_recent: int, cluster: ClusterConfig) -> float:
    """Pause in seconds before a part is started again after so many recent faults: exponential back-off.

    delay = min(restart_delay_sec · 2^(n − 1), restart_delay_max_sec)
    """
    return float(min(cluster.restart_delay_sec * 2.0 ** (num_recent - 1), cluster.restart_delay_max_sec))


def after_fault(health: Health, now: float, cluster: ClusterConfig, *, is_needed: bool) -> Decision:
    """Decide what follows a fault.

    A part is restarted at most `cluster.max_restarts` times in any `cluster.restart_window_sec`. Beyond that it is dropped and
    tried again `cluster.regrow_sec` later, or the run is given up if it cannot do without.

    Args:
        health: Of the part, before the fault.
        now: Seconds.
        cluster: Settings.
        is_needed: Whether the run cannot go on without this part.
    """
    recent = (*(t for t in health.faults if now - t < cluster.restart_window_sec), now)
    failed = replace(health, faults=recent, num_faults=health.num_faults + 1, is_working=False, due_at=None)
    if len(recent) <= cluster.max_restarts:
        return Decision(Remedy.RESTART, replace(failed, is_dropped=False, due_at=now + restart_delay(len(recent), cluster)))
    if is_needed:
        return Decision(Remedy.GIVE_UP, failed)
    return Decision(Remedy.DROP, replace(failed, is_dropped=True, due_at=now + cluster.regrow_sec))


def not_aged(health: Health, waited_sec: float) -> Health:
    """Health after a wait for a part that did not come up: that it failed before counts as it did when the wait began.

    Waits may be as long as `cluster.restart_window_sec`; otherwise a part for which no node has room would be tried for ever.
    """
    return replace(health, faults=tuple(time + waited_sec for time in health.faults))


def can_do_without(part: int, healths: Sequence[Health]) -> bool:
    """Whether another environment part works, or will soon."""
    return any(not health.is_dropped for i, health in enumerate(healths) if i != part)


def due(healths: Mapping[K, Health], now: float) -> list[K]:
    """Parts that are to be started now."""
    return [key for key, health in healths.items() if health.due_at is not None and health.due_at <= now]


def overdue(since: Mapping[K, float], now: float, timeout_sec: float) -> list[K]:
    """Calls that were begun longer than `timeout_sec` ago."""
    return [key for key, begun in since.items() if now - begun > timeout_sec]
