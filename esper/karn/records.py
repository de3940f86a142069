"""Rows of a query as dataclasses."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

R = TypeVar("R")


def as_record(cls: type[R], row: Mapping[str, Any]) -> R:
    """Make a `cls` of the columns that are named like its fields.

    Raises:
        KeyError: If the row lacks one.
    """
    return cls(**{field.name: row[field.name] for field in fields(cls)})  # type: ignore[arg-type]
