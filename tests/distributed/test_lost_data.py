"""What was handed over and vanished: wherever Ray says so, it is one error, and the work is done again."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError, OwnerDiedError, RayActorError, RayTaskError

from esper.distributed.actors import RayExecutor
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


@pytest.mark.parametrize("raised", [RayActorError(), of_a_task(RayActorError())])
def test_a_part_that_died_is_no_lost_data(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", _raise(raised))
    with pytest.raises(PartLostError, match="has died"):
        RayExecutor(1.0).get(Call())


def _raise(error: Exception) -> Any:
    def get(*_: Any, **__: Any) -> Any:
        raise error

    return get
