"""Rows of a query as dataclasses, and in SQL which training round a row belongs to."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

R = TypeVar("R")

IS_TRAINING = "regexp_matches(group_id, '^train/learned/[0-9]+$')"
"""Whether a row is of a training round of the learned policy."""
ROUND = "1 + try_cast(split_part(group_id, '/', 3) AS BIGINT)"
"""The round's number, counted from 1 as in `batch_idx`; a `group_id` such as `train/learned/7` counts from 0."""


def as_record(cls: type[R], row: Mapping[str, Any]) -> R:
    """Make a `cls` of the columns that are named like its fields.

    Raises:
        KeyError: If the row lacks one.
    """
    return cls(**{field.name: row[field.name] for field in fields(cls)})  # type: ignore[arg-type]
