"""One uninterrupted run that others are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.session import train_run
from tests.distributed.runs import tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a local run that went through without a fault."""
    root = tmp_path_factory.mktemp("finished") / "run"
    assert not train_run(tiny_config(), root, local=True)
    return root
