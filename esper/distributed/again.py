"""Giving a training command again: is there a run to go on with, and is it the one that the settings describe?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from esper.distributed.checkpoint_folder import CheckpointError
from esper.distributed.config import config_from, read_run_config, write_run_config
from esper.distributed.run_dir import RunDir, RunDirError, create_run_dir, release_run_dir
from esper.leyline.load import dump

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from esper.distributed.config import RunConfig


def has_begun(root: Path, config: RunConfig, named: Mapping[str, Any]) -> bool:
    """Whether `root` holds a run, which is then continued with the settings that it was begun with.

    Args:
        root: The run's folder.
        config: The settings that the command asks for.
        named: Those that it names; what it leaves to defaults may differ, since those change from version to version.

    Raises:
        RunDirError: If the run there was begun with another value of a named setting.
    """
    paths = RunDir(root.resolve())
    if not paths.config.exists():
        return False
    _require_same(read_run_config(paths.config), config, named, f"--run-dir {root}")
    return True


def has_copies(config: RunConfig, named: Mapping[str, Any]) -> bool:
    """Whether the run's second place for checkpoints holds it; arguments and errors as for `has_begun`."""
    uri = config.checkpoint.uri
    stored = copied_config(uri) if uri is not None else None
    if stored is None:
        return False
    _require_same(stored, config, named, f"checkpoint.uri={uri}")
    return True


def copied_config(uri: str) -> RunConfig | None:
    """Settings of the run whose checkpoints are copied to a URI; None if none are.

    Raises:
        ConfigError: If the URI cannot be used.
        CheckpointError: If it cannot be read.
    """
    from esper.distributed.checkpoint_store import CheckpointStore  # with pyarrow's file systems

    text = CheckpointStore.open(uri).config_text()
    if text is None:
        return None
    config = config_from(yaml.safe_load(text))
    return replace(config, checkpoint=replace(config.checkpoint, uri=uri))


def fetch_run(uri: str, root: Path) -> None:
    """Make a folder for a run of which only copies are left; `resume_run` then brings its checkpoints there.

    Raises:
        ConfigError: If the URI cannot be used.
        CheckpointError: If it holds no run.
        RunDirError: If `root` cannot be used, or holds a run.
    """
    config = copied_config(uri)
    if config is None:
        raise CheckpointError(f"--from {uri} holds no run")
    paths = create_run_dir(root)
    try:
        write_run_config(config, paths.config)
    finally:
        release_run_dir(paths)


def _require_same(stored: RunConfig, config: RunConfig, named: Mapping[str, Any], where: str) -> None:
    asked, begun = dump(config), dump(stored)
    for key in _leaves(named, asked):
        ours, theirs = _at(asked, key), _at(begun, key)
        if ours != theirs:
            raise RunDirError(
                f"{where} holds a run with {'.'.join(key)}={theirs!r}, not {ours!r}; leave the setting as it was, or choose another place"
            )


def _leaves(named: Mapping[str, Any], asked: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in named.items():
        if isinstance(value, dict) and isinstance(asked[key], dict):
            yield from _leaves(value, asked[key], (*prefix, key))
        else:
            yield (*prefix, key)


def _at(values: Mapping[str, Any], key: tuple[str, ...]) -> Any:
    found: Any = values
    for part in key:
        found = found[part]
    return found
