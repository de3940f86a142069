"""Deprecated payload names, each an alias of the class that replaced it."""

from __future__ import annotations

from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.leyline.telemetry.tolaria import TolariaBatchPayload, TolariaEpochPayload, TolariaRollbackPayload

EpochCompletedPayload = TolariaEpochPayload
BatchEpochCompletedPayload = TolariaBatchPayload
GovernorRollbackPayload = TolariaRollbackPayload
PPOUpdatePayload = TamiyoPolicyUpdatePayload
