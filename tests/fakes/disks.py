"""Disks that are small enough to be filled."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 2**20


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A disk of its own at the new folder `folder`; skips the test where none can be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here, which takes root and Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, *, leave_mib: int) -> Path:
    """Fill a disk up to so much; removing the file that is returned makes room again."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        for _ in range(shutil.disk_usage(folder).free // MIB - leave_mib):
            file.write(bytes(MIB))
    return filler
