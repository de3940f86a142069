"""A training step as one launch: what it makes a GPU do is recorded once, as a CUDA graph, and repeated.

What runs on CUDA here has not been run yet. On a CPU the tests record a step operation by operation and repeat it on the same
tensors, which shows that it takes nothing else from Python; that CUDA captures each of these operations is left to be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Step = Callable[[], None]

WARM_STEPS = 2
"""Steps that are taken as they are before one is recorded: in them libraries choose kernels, and tensors that stay are made."""


class Recorder(Protocol):
    """Records steps: functions that compute on tensors which stay where they are."""

    def warm(self, step: Step) -> None:
        """Take a step that is to be recorded later."""
        ...

    def record(self, step: Step) -> Step:
        """What takes the same step again, on the numbers that its tensors hold by then; recording takes none."""
        ...


class CudaRecorder:
    """Records CUDA graphs.

    Args:
        device: Where the steps run.

    Raises:
        ConfigError: If it is no GPU.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError(f"engine.cuda_graphs=true: hosts are trained on {device}, and CUDA graphs need a GPU; set cluster.env_gpus")
        self._stream = torch.cuda.Stream(device)

    def warm(self, step: Step) -> None:
        """Take a step beside the stream in which everything else runs."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def record(self, step: Step) -> Step:
        """Capture a step; other threads of the process may use the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            step()
        return graph.replay


class RecordedSteps:
    """Takes the steps of full batches, the first few as they are and all others as they were recorded.

    Args:
        recorder: Records.
        step: Computes on a batch: inputs [K, B, …] and labels [K, B, …].
        division: Changes when what was recorded is of no more use.
    """

    def __init__(self, recorder: Recorder, step: Callable[[Tensor, Tensor], None], division: Callable[[], int]) -> None:
        self._recorder = recorder
        self._step = step
        self._division = division
        self._batch: tuple[Tensor, Tensor] | None = None
        self._again: Step | None = None
        self._known_division = division()
        self._num_warm = 0

    def take(self, x: Tensor, y: Tensor) -> None:
        """Take one step; all batches are of one shape."""
        if self._batch is None:
            self._batch = torch.empty_like(x), torch.empty_like(y)
        self._batch[0].copy_(x)
        self._batch[1].copy_(y)
        if self._known_division != self._division():
            self._known_division, self._num_warm, self._again = self._division(), 0, None
        if self._num_warm < WARM_STEPS:
            self._num_warm += 1
            self._recorder.warm(self._on_batch)
            return
        if self._again is None:
            self._again = self._record()
        self._again()

    def _record(self) -> Step:
        try:
            return self._recorder.record(self._on_batch)
        except Exception as error:
            error.add_note("while a training step was recorded as a CUDA graph; engine.cuda_graphs=false trains without")
            raise

    def _on_batch(self) -> None:
        assert self._batch is not None
        self._step(*self._batch)
