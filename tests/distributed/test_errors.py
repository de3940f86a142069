"""Errors cross process borders: what is raised in an actor must arrive as it was."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path

import pytest

import esper
from esper.kasmina.lifecycle import IllegalActionError
from esper.kasmina.surgery import GrowthError
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.layer_ops import BlueprintError
from esper.tamiyo.service import PolicyAnswerError, PolicyRejectedError, Rejection


def errors_of_the_package() -> list[type[Exception]]:
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(esper.__path__, "esper.")]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("esper.")
    }
    return sorted(found, key=lambda error: error.__name__)


ARGUMENTS: dict[type[Exception], tuple[object, ...]] = {
    BlueprintError: ("norm", "r0c1", "being built", "OSError('no such file')", (1, 2)),
    GrowthError: (("host.weight",), ("seed.weight", "seed.bias")),
    IllegalActionError: (FactoredAction(op=LifecycleOp.PRUNE, slot=1), "slot 1 is empty"),
    PolicyAnswerError: ("gnn_v1-3-0f3a", "run-7", ("confidence",)),
    PolicyRejectedError: (Path("policies/new"), Rejection.ALTERED, "weights.safetensors is not what it was"),
}
"""Of the errors that take more than a message; one with a constructor that is not listed fails below."""
ERRORS = errors_of_the_package()


def test_the_known_errors_were_found() -> None:
    known = {"CheckpointError", "ClusterError", "ConfigError", "GrowthError", "IllegalActionError", "RunDirError", "RunFailedError"}
    assert known <= {error.__name__ for error in ERRORS}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[Exception]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("what is wrong",)))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
