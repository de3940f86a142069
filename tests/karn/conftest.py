"""A finished run on disk, shared by the tests that only read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.telemetry import record_run, whole_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rounds of eight episodes."""
    return record_run(tmp_path_factory.mktemp("run"), [whole_run(12)])


@pytest.fixture(scope="session")
def empty_run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped before anything happened."""
    return record_run(tmp_path_factory.mktemp("empty"), [])
