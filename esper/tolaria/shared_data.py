"""Data that lies in memory once per machine: files that every process maps, and arrays decoded once into such files.

`mapped` gives a file as a read-only array. Its pages are the operating system's copy of the file, which all processes
see and which it may drop and read again; only rows that are taken out become memory of a process. `shared_arrays`
makes such files where the source is packed, e.g. Parquet: the first process that asks decodes, the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_CONTENTS = "contents.json"
_MAPPINGS = 32
"""Files that a process keeps mapped though nothing uses them; a mapping costs a file descriptor, but no memory."""


def mapped(path: Path) -> np.ndarray:
    """A file as a read-only array: `.npy` as it was saved, any other as its bytes [N] uint8.

    All who ask within a process share one mapping while the file is the same. Write a changed file beside the old one
    and rename it: cutting off a file that is mapped kills who reads it.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is empty or no complete array.
    """
    state = path.stat()
    return _map(path, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


def shared_arrays(
    sources: Sequence[Path], build: Callable[[], Mapping[str, np.ndarray]], *, folders: Sequence[Path], recipe: str
) -> dict[str, np.ndarray]:
    """Arrays derived from files: built by the first process that asks, mapped by all.

    They are built again when a source changes its size or modification time, or when they are incomplete. What was built
    by the same recipe from an older state is then deleted; processes of this machine that have it mapped keep it. Machines may
    share a folder where its file system locks across them, as NFS does.

    Args:
        sources: Files that `build` reads.
        build: Makes the arrays by name, none of them empty.
        folders: Where the arrays may lie. They are taken from the first folder that has them, and otherwise written to the
            first that can be written to; it is made if missing.
        recipe: What `build` does; another text for another way to build, e.g. `images 1`.

    Returns:
        Read-only arrays by name.

    Raises:
        ConfigError: If no folder can be written to.
        ValueError: If an array is empty or holds Python objects.
        OSError: If a source cannot be read or changes meanwhile, or the disk is full.
    """
    origin, state = _digest([recipe, *(str(path.resolve()) for path in sources)]), _state(sources)
    for folder in folders:
        arrays = _opened(folder / f"{origin}-{state}")
        if arrays is not None:
            return arrays
    with _locked(folders, f"{origin}.lock") as folder:
        state = _state(sources)
        target = folder / f"{origin}-{state}"
        arrays = _opened(target)
        if arrays is None:
            built = build()
            if _state(sources) != state:
                raise OSError(f"{', '.join(map(str, sources))} changed while being read; start again when they are complete")
            _replace(target, built, outdated=f"{origin}-*", about={"recipe": recipe, "sources": [str(path) for path in sources]})
            arrays = _opened(target)
    if arrays is None:
        raise OSError(f"{target} was written, but cannot be read back")
    return arrays


def shared_folders(data_dir: Path) -> tuple[Path, Path]:
    """Where arrays derived from the files in `data_dir` may lie: beside them, or else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return data_dir / ".esper", (Path(cache) if cache else Path.home() / ".cache") / "esper"


@lru_cache(maxsize=_MAPPINGS)
def _map(path: Path, state: tuple[int, ...]) -> np.ndarray:  # noqa: ARG001 - tells a new file of the same name
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    return np.memmap(path, dtype=np.uint8, mode="r")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _state(sources: Sequence[Path]) -> str:
    return _digest([(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in sources)])


@contextmanager
def _locked(folders: Sequence[Path], name: str) -> Iterator[Path]:
    """The first folder that can be written to, for this process alone; the lock of a process that dies is free."""
    reasons = []
    with ExitStack() as stack:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((folder / name).open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                reasons.append(f"{folder} ({error.strerror})")
                continue
            yield folder
            return
    raise ConfigError(
        f"decoded data are kept in a file that all processes map, but none can be written in {' or '.join(reasons)}; "
        "make one of these folders writable, or set XDG_CACHE_HOME to a folder that is"
    )


def _opened(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a folder; None if there are none, or not all of what was written."""
    try:
        num_bytes: dict[str, int] = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))["num_bytes"]
        if any((folder / name).stat().st_size != size for name, size in num_bytes.items()):
            return None
        return {Path(name).stem: mapped(folder / name) for name in num_bytes}
    except (OSError, ValueError, KeyError):
        return None


def _replace(target: Path, arrays: Mapping[str, np.ndarray], *, outdated: str, about: Mapping[str, object]) -> None:
    """Write beside the target, so that it is never seen incomplete; then delete what is outdated or left by a process that died."""
    folder = target.parent / f".new-{target.name}-{secrets.token_hex(4)}"
    leftovers = [*target.parent.glob(f".new-{outdated}"), *(path for path in target.parent.glob(outdated) if path.is_dir())]
    folder.mkdir()
    try:
        for name, array in arrays.items():
            if array.size == 0:
                raise ValueError(f"array {name!r} of {about['recipe']!r} is empty, shape {list(array.shape)}")
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                os.fsync(file.fileno())
        num_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        (folder / _CONTENTS).write_text(json.dumps({**about, "num_bytes": num_bytes}, indent=1), encoding="utf-8")
        for path in leftovers:
            shutil.rmtree(path)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
