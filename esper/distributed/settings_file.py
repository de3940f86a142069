"""Settings in a YAML file, as they stand there: nothing is checked but that they are a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_settings(path: Path, *, option: str = "") -> Mapping[str, Any]:
    """Read a file of settings; an empty one has none.

    Args:
        path: The file.
        option: Of the command line, by which the user named the file; complaints begin with it.

    Raises:
        ConfigError: If it cannot be read, is no YAML, or holds no mapping.
    """
    name = f"{option} {path}".lstrip()
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name}: expected a mapping of settings, got {type(values).__name__}")
    return values
