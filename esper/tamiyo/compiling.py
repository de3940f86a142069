"""The network compiled for inference, where that works; where it does not, the eager one, and one line in the log.

torch's compiler is imported only when it is asked for.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.tamiyo.gnn import GraphEncoding
    from esper.tamiyo.planner import GraphTensors

Encode: TypeAlias = "Callable[[GraphTensors], GraphEncoding]"

log = logging.getLogger(__name__)
DISABLED = "tamiyo_gnn_compile_disabled"
"""Name of the log line; the record carries `reason`."""


class Encoder:
    """Runs `encode`, compiled if wanted and possible."""

    def __init__(self, encode: Encode, *, is_compiled: bool) -> None:
        """Make the compiled callable, which compiles at its first call.

        Args:
            encode: The eager network.
            is_compiled: Whether to try.
        """
        self._eager = encode
        self._compiled: Encode | None = None
        self.warm_ms: float | None = None
        """Duration of the warm-up; None before it, and where nothing is compiled."""
        if is_compiled:
            self._attempt(lambda: torch.compile(encode, dynamic=True, mode="reduce-overhead"))

    @property
    def is_compiled(self) -> bool:
        """Whether calls run compiled code."""
        return self._compiled is not None

    def __call__(self, graphs: GraphTensors) -> GraphEncoding:
        """Encode; a failure of the compiled code leaves the eager one from then on."""
        if self._compiled is not None:
            try:
                return self._compiled(graphs)
            except Exception as error:  # noqa: BLE001  # a backend may raise anything; a fault of the input is raised again below
                self._disable(error)
        return self._eager(graphs)

    def warm_up(self, graphs: GraphTensors) -> None:
        """Run once, so that the first decision does not wait for the compiler or the device."""
        began = time.perf_counter()
        self(graphs)
        if graphs.attributes.device.type == "cuda":
            torch.cuda.synchronize(graphs.attributes.device)
        self.warm_ms = 1000.0 * (time.perf_counter() - began) if self.is_compiled else None

    def _attempt(self, make: Callable[[], Encode]) -> None:
        try:
            self._compiled = make()
        except Exception as error:  # noqa: BLE001  # as above
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        self._compiled, self.warm_ms = None, None
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        log.warning("%s reason=%s", DISABLED, reason, extra={"reason": reason})
