"""A second place for a run's checkpoints: any file system that pyarrow knows, so that a run can outlive its machine.

The store is a mirror of the run's folder of checkpoints and holds the run's settings beside them. Checkpoints are written locally
first; here a manifest is written after the files that it vouches for, so what has none, or another one, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pyarrow as pa
from pyarrow import fs

from esper.distributed.checkpoint_folder import BEST, MANIFEST, CheckpointError, CheckpointFolder, name_of, require_intact, rounds_among
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper.distributed.run_dir import RunDir

KEY = "checkpoint.uri"
CONFIG = "config.yaml"


class CheckpointStore:
    """Copies of one run's checkpoints.

        store = CheckpointStore.open("s3://bucket/runs/first")
        store.require_writable()
        store.update(folder)          # after every checkpoint
        store.complete(folder)        # before a run goes on, perhaps elsewhere

    Args:
        filesystem: Where.
        root: Path of the run's copies in it.
        uri: What the user calls it.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, uri: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._uri = uri
        self._copied: dict[int, str] = {}

    @classmethod
    def open(cls, uri: str) -> Self:
        """Look up the file system; credentials come from the environment, as its own tools find them.

        Raises:
            ConfigError: If there is no such file system, or it does not answer.
        """
        try:
            filesystem, root = fs.FileSystem.from_uri(uri)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{KEY}={uri!r} cannot be used: {_reason(error)}; give an absolute path, file://, s3:// or gs://") from error
        return cls(filesystem, root, uri)

    def require_writable(self) -> None:
        """Write a file and read it back.

        Raises:
            ConfigError: If that fails.
        """
        probe, content = self._path(f".probe-{os.getpid()}"), b"esper"
        try:
            self._fs.create_dir(self._root)
            self._write(probe, content)
            is_sound = self._read(probe) == content
            self._fs.delete_file(probe)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{KEY}={self._uri!r} cannot be written: {_reason(error)}") from error
        if not is_sound:
            raise ConfigError(f"{KEY}={self._uri!r} does not give back what is written to it")

    def config_text(self) -> str | None:
        """The settings of the run whose copies these are; None if there is none.

        Raises:
            CheckpointError: If the store cannot be read.
        """
        with self._reported("read"):
            found = self._fs.get_file_info(self._path(CONFIG)).type == fs.FileType.File
            return self._read(self._path(CONFIG)).decode() if found else None

    def begin(self, paths: RunDir) -> None:
        """Note the settings of a run that begins.

        Raises:
            CheckpointError: If the store cannot be written.
        """
        with self._reported("write"):
            self._fs.create_dir(self._root)
            self._write(self._path(CONFIG), paths.config.read_bytes())

    def update(self, folder: CheckpointFolder) -> None:
        """Copy what is new in the folder and forget what the folder has forgotten.

        Raises:
            CheckpointError: If that fails; what is missing is copied the next time.
        """
        with self._reported("write"):
            rounds = folder.rounds()
            for num_rounds in rounds:
                self._copy(num_rounds, folder.path(num_rounds))
            best = folder.root / BEST
            if best.exists():
                self._write(self._path(BEST), best.read_bytes())
            for num_rounds in set(self._rounds()) - set(rounds):
                self._fs.delete_dir(self._path(name_of(num_rounds)))
                self._copied.pop(num_rounds, None)

    def complete(self, folder: CheckpointFolder) -> list[int]:
        """Fetch every checkpoint that the folder lacks or has damaged; says on the terminal which copies are damaged, too.

        Returns:
            Rounds of what was fetched, ascending.

        Raises:
            CheckpointError: If the store cannot be read.
        """
        fetched = []
        with self._reported("read"):
            for num_rounds in self._rounds():
                if not _is_intact(folder.path(num_rounds)) and self._fetch(num_rounds, folder.path(num_rounds)):
                    fetched.append(num_rounds)
            best = self._path(BEST)
            if folder.best() is None and self._fs.get_file_info(best).type == fs.FileType.File:
                (folder.root / BEST).write_bytes(self._read(best))
                folder.require_best()
        return fetched

    def _copy(self, num_rounds: int, source: Path) -> None:
        manifest = (source / MANIFEST).read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        if self._copied.get(num_rounds) == digest:
            return
        target = self._path(name_of(num_rounds))
        if self._fs.get_file_info(target).type == fs.FileType.Directory:
            self._fs.delete_dir(target)
        self._fs.create_dir(target)
        for file in source.iterdir():
            if file.name != MANIFEST:
                self._write(f"{target}/{file.name}", file.read_bytes())
        self._write(f"{target}/{MANIFEST}", manifest)
        self._copied[num_rounds] = digest

    def _fetch(self, num_rounds: int, target: Path) -> bool:
        """Bring one checkpoint here, whole or not at all."""
        staging = target.with_name(f".{target.name}.fetch-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for file in self._fs.get_file_info(fs.FileSelector(self._path(target.name))):
            if file.type == fs.FileType.File:
                (staging / file.base_name).write_bytes(self._read(file.path))
        try:
            require_intact(staging)
        except CheckpointError as error:
            print(f"damaged copy of round {num_rounds} at {self._uri}: {error}", file=sys.stderr)
            shutil.rmtree(staging)
            return False
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staging, target)
        return True

    def _rounds(self) -> list[int]:
        entries = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return rounds_among(entry.base_name for entry in entries if entry.type == fs.FileType.Directory)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, path: str, content: bytes) -> None:
        with self._fs.open_output_stream(path) as stream:
            stream.write(content)

    def _read(self, path: str) -> bytes:
        with self._fs.open_input_stream(path) as stream:
            return bytes(stream.read())

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise CheckpointError(f"{KEY}={self._uri!r}: cannot {verb} there: {_reason(error)}") from error


def _is_intact(path: Path) -> bool:
    try:
        require_intact(path)
    except CheckpointError:
        return False
    return True


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
