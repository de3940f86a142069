"""The policy as a service: packets in, commands out, policies exchanged while it runs.

For those who operate one:

- A policy is a directory that `esper export` writes, by convention named `tamiyo_gnn_v1`; nothing in it is unpickled. `manifest.json`
  holds the architecture, the configuration, digests, and a hash of every other file; `weights.safetensors` parameters and buffers;
  `gnn_norms.json` the running statistics of the inputs, for people; `registries/*.json` the names behind every index.
- Its version names its weights, e.g. `gnn_v1-28-0f3a1b2c4d5e`: architecture, updates, first digits of their hash. Every command says
  which version decided.
- Compatible is what has this architecture, this layout of observations, and registries with the digests that the manifest tells and
  the service was given. All else is refused with `POLICY_UPDATE_REJECTED`, and the old policy stays.
- A packet must hold the epoch, validation accuracy and loss; with a run's id its commands are judged by what followed. Everything else
  is optional: what is missing is 0 in its channels and in its mask, and lowers the coverage that stands beside every command.
  `FEATURES.md`, one folder up, says where each feature comes from.
- Steps and swaps may come from different threads; packets of one run come from one, in the order of their epochs.
"""

from __future__ import annotations

from esper.tamiyo.service.commands import action_of, seed_operation
from esper.tamiyo.service.config import TamiyoServiceConfig
from esper.tamiyo.service.errors import PolicyAnswerError, PolicyRejectedError, Rejection
from esper.tamiyo.service.ledger import CommandLedger
from esper.tamiyo.service.manifest import ARCHITECTURE_VERSION
from esper.tamiyo.service.policy_directory import Observing, StoredPolicy, load_policy, save_policy
from esper.tamiyo.service.tamiyo_service import TamiyoService

__all__ = [
    "ARCHITECTURE_VERSION",
    "CommandLedger",
    "Observing",
    "PolicyAnswerError",
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
