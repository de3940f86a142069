"""The policy as a service: packets in, commands out, policies exchanged while it runs."""

from __future__ import annotations

from esper.tamiyo.service.commands import action_of, seed_operation
from esper.tamiyo.service.config import TamiyoServiceConfig
from esper.tamiyo.service.ledger import CommandLedger
from esper.tamiyo.service.policy_directory import (
    ARCHITECTURE_VERSION,
    Observing,
    PolicyRejectedError,
    Rejection,
    StoredPolicy,
    load_policy,
    save_policy,
)
from esper.tamiyo.service.tamiyo_service import TamiyoService

__all__ = [
    "ARCHITECTURE_VERSION",
    "CommandLedger",
    "Observing",
    "PolicyRejectedError",
    "Rejection",
    "StoredPolicy",
    "TamiyoService",
    "TamiyoServiceConfig",
    "action_of",
    "load_policy",
    "save_policy",
    "seed_operation",
]
