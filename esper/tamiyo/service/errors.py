"""What a service refuses: policies that cannot be used, and answers that mean nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Rejection(StrEnum):
    """Why a directory was refused."""

    UNREADABLE = "unreadable"
    """It is no policy directory, a file of it is missing or cut short, or its manifest says what cannot be."""
    ALTERED = "altered"
    """A file is not what it was when the directory was written."""
    ARCHITECTURE = "architecture"
    """It holds a policy of another architecture."""
    DIGEST = "digest"
    """Its indices or its inputs mean something else here."""
    WEIGHTS = "weights"
    """The weights do not fit the configuration, are not finite, or answer with what is not."""


class PolicyRejectedError(ValueError):
    """A policy directory that cannot be used; the message names the file and what is wrong."""

    def __init__(self, path: Path, kind: Rejection, detail: str) -> None:
        super().__init__(path, kind, detail)
        self.path = path
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        """What is wrong, in one line."""
        return f"{self.path}: refused ({self.kind}): {self.detail}"


class PolicyAnswerError(ArithmeticError):
    """A policy answered a packet with numbers that are not finite, so that nothing can be commanded."""

    def __init__(self, policy_version: str, training_run_id: str, not_finite: tuple[str, ...]) -> None:
        super().__init__(policy_version, training_run_id, not_finite)
        self.policy_version = policy_version
        self.training_run_id = training_run_id
        self.not_finite = not_finite
        """Parts of the answer that are not finite."""

    def __str__(self) -> str:
        """Which policy failed, at what, and what to do."""
        parts = ", ".join(self.not_finite)
        return f"policy {self.policy_version} answered run {self.training_run_id!r} with {parts} not finite; update_policy to a sound one"
