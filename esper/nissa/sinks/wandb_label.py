"""What a run is called in Weights & Biases, and how it is reached."""

from __future__ import annotations

import netrc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlparse
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Mode = Literal["offline", "online", "disabled"]
ID_FILE = "run_id"


@dataclass(frozen=True, slots=True)
class RunLabel:
    """What a run is called."""

    name: str
    group: str = ""
    """Runs of one group are shown together. Empty is none."""


def resolve_mode(wanted: Literal["offline", "online"], environ: Mapping[str, str], base_url: str) -> Mode:
    """Decide how to log before anything can ask for a login.

    Args:
        wanted: What the config says.
        environ: Environment variables; `WANDB_MODE` overrides, `WANDB_API_KEY` is a key.
        base_url: Server, whose host may have a key in `~/.netrc`.

    Returns:
        `online` only where there is a key.
    """
    override = environ.get("WANDB_MODE")
    if override in ("offline", "disabled"):
        return override  # type: ignore[return-value]
    if wanted == "online" and not environ.get("WANDB_API_KEY") and not _has_netrc_key(base_url):
        return "offline"
    return wanted


def explain_mode(wanted: Literal["offline", "online"], mode: Mode, environ: Mapping[str, str], base_url: str) -> str:
    """Why a run is not logged as it was asked for; empty if it is."""
    if wanted == mode:
        return ""
    if environ.get("WANDB_MODE") == mode:
        return f"Weights & Biases: WANDB_MODE={mode} overrides telemetry.wandb={wanted}"
    return f"Weights & Biases: there is no key for {base_url}, so that this run is logged offline; upload it later with `wandb sync`"


def run_id(folder: Path) -> str:
    """The run's identity, made once and kept in `folder`: a run that goes on is the same run."""
    path = folder / ID_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid4().hex[:16])
    return path.read_text().strip()


def _has_netrc_key(base_url: str) -> bool:
    try:
        entry = netrc.netrc().authenticators(urlparse(base_url).hostname or base_url)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
    return entry is not None
