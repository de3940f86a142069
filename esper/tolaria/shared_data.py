"""Arrays made once from source files, and mapped read-only by every process of the machine that needs them.

A mapped array costs memory once per machine, not once per process, and only for the pages that are read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


def shared_arrays(
    sources: Sequence[Path], build: Callable[[], Mapping[str, np.ndarray]], *, folder: Path, recipe: str
) -> dict[str, np.ndarray]:
    """Arrays derived from files: built by the first process that asks, mapped by all.

    What was built from an older state of the same files, by the same recipe, is deleted; processes that have it mapped keep it.

    Args:
        sources: Files that `build` reads; a change of size or modification time has the arrays built again.
        build: Makes the arrays by name, none of them empty.
        folder: Where they are kept; made if missing.
        recipe: What `build` does, as a file name; another text for another way to build, e.g. `images-1`.

    Returns:
        Read-only arrays by name.

    Raises:
        ValueError: If an array is empty or holds Python objects.
        OSError: If a source cannot be read or `folder` cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = _digest([str(path.resolve()) for path in sources])
    state = _digest([(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in sources)])
    target = folder / f"{recipe}-{origin}-{state}"
    if not target.is_dir():
        with _locked(folder / f"{recipe}-{origin}.lock"):
            if not target.is_dir():
                outdated = list(folder.glob(f"{recipe}-{origin}-*"))
                _write(build(), target)
                for other in outdated:
                    shutil.rmtree(other)
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(target.glob("*.npy"))}


def shared_folder(data_dir: Path) -> Path:
    """Where to keep arrays derived from the files in `data_dir`: beside them, or in the user's cache where that is read-only."""
    if data_dir.is_dir() and os.access(data_dir, os.W_OK):
        return data_dir / ".esper"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esper"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclusive among processes; the lock of one that dies is free."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Write beside the target first, so that it is never seen incomplete."""
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    try:
        for name, array in arrays.items():
            if array.size == 0:
                raise ValueError(f"array {name!r} of {target.name} is empty, shape {list(array.shape)}")
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
