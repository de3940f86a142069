"""Errors cross process borders: what is raised in an actor must arrive as it was."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil

import pytest

import esper


def errors_of_the_package() -> list[type[Exception]]:
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(esper.__path__, "esper.")]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("esper.")
    }
    return sorted(found, key=lambda error: error.__name__)


ERRORS = errors_of_the_package()


def test_the_known_errors_were_found() -> None:
    known = {"CheckpointError", "ClusterError", "ConfigError", "GrowthError", "IllegalActionError", "RunDirError", "RunFailedError"}
    assert known <= {error.__name__ for error in ERRORS}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[Exception]) -> None:
    parameters = [p for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    error = kind(*(f"{p.name}-value" for p in parameters)) if parameters else kind("what is wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
