"""Giving a training command again: is there a run to go on with, and is it the one that the settings describe?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.distributed.config import read_run_config
from esper.distributed.run_dir import RunDir, RunDirError
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
    asked, stored = dump(config), dump(read_run_config(paths.config))
    for key in _leaves(named, asked):
        ours, theirs = _at(asked, key), _at(stored, key)
        if ours != theirs:
            raise RunDirError(
                f"--run-dir {root} holds a run with {'.'.join(key)}={theirs!r}, not {ours!r}; leave the setting as it was, "
                "or choose another folder"
            )
    return True


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
