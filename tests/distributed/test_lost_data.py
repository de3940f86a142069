"""What was handed over and vanished: wherever Ray says so, it is one error, and the work is done again."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, OwnerDiedError, RayActorError, RayTaskError

from esper.distributed.actors import RayExecutor, stop_part
from esper.distributed.executor import DataLostError, PartLostError


class Call:
    """A call that ended badly."""

    end = value = object()


def lost(kind: type[ObjectLostError] = ObjectLostError) -> ObjectLostError:
    return kind("ab12", None, "")


def of_a_task(cause: Exception) -> RayTaskError:
    return RayTaskError("step", "traceback", cause, proctitle="env", pid=1, ip="127.0.0.1")


@pytest.mark.parametrize("method", ["get", "check"])
@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (lost(), "a result is lost: .*ab12"),
        (lost(OwnerDiedError), "a result is lost: .*ab12"),
        (of_a_task(lost()), "an argument is lost: .*ab12"),
        (of_a_task(lost(OwnerDiedError)), "an argument is lost: .*ab12"),
    ],
)
def test_a_result_or_an_argument_that_vanished_is_lost_data(
    method: str, raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", _raise(raised))
    with pytest.raises(DataLostError, match=message):
        getattr(RayExecutor(1.0), method)(Call())


KILLED = OutOfMemoryError("the node was running low on memory\ndetails")
"""What callers hear of an actor that was ended to free memory; it is no RayActorError."""


@pytest.mark.parametrize("raised", [RayActorError(), of_a_task(RayActorError()), KILLED, of_a_task(KILLED), OutOfMemoryError("")])
def test_a_part_that_died_is_no_lost_data(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", _raise(raised))
    with pytest.raises(PartLostError, match="has died"):
        RayExecutor(1.0).get(Call())


class Part:
    """An actor's handle, as far as closing needs one."""

    def __init__(self) -> None:
        self.call = self.__ray_terminate__ = self

    def remote(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("raised", [RayActorError(), KILLED, GetTimeoutError("late")])
def test_a_part_that_cannot_be_closed_any_more_is_killed_and_no_error(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "get", _raise(raised))
    monkeypatch.setattr(ray, "kill", killed.append)
    part = Part()
    stop_part(part, 1.0)
    assert killed == [part]


def test_what_kept_a_part_from_closing_is_raised_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    cause = OSError("disk full")
    monkeypatch.setattr(ray, "get", _raise(of_a_task(cause)))
    monkeypatch.setattr(ray, "kill", killed.append)
    with pytest.raises(OSError, match="disk full") as caught:
        stop_part(Part(), 1.0)
    assert caught.value is cause
    assert len(killed) == 1


def _raise(error: Exception) -> Any:
    def get(*_: Any, **__: Any) -> Any:
        raise error

    return get
