"""The table of settings below `esper train --help`, derived from the config dataclasses."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, get_type_hints

from esper.leyline.load import dump

if TYPE_CHECKING:
    from collections.abc import Iterator


def describe(config_class: type[Any]) -> str:
    """One paragraph per setting: key, default with unit, and what it does."""
    width = max(min(shutil.get_terminal_size().columns, 120), 60)
    lines = ["settings (key=value on the command line, nested mappings in YAML):"]
    for key, default, unit, text in _walk(config_class, ""):
        shown = f"{default} {unit}".strip()
        lines.append(f"  {key} = {shown}")
        lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _walk(config_class: type[Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _walk(hints[field.name], f"{key}.")
        else:
            yield key, _show_default(field), field.metadata.get("unit", ""), field.metadata.get("help", "")


def _show_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return "(required)"
    plain = dump(_Box(default))["value"]
    return "none" if plain is None else str(plain).replace("'", "")


@dataclasses.dataclass
class _Box:
    value: Any
