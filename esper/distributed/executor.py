"""How parts are called: in this process or through Ray, behind one Protocol, so that the driver cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Ref = Any
"""A result that may not exist yet. Passing it as an argument passes the result, without a detour over the caller."""


class ClusterError(RuntimeError):
    """The cluster cannot do what the run asks; the message says what is missing."""


class RunFailedError(RuntimeError):
    """A part is gone or does not answer, so the run cannot go on; what it had saved is intact."""


class PartLostError(RunFailedError):
    """The part that was called has died or does not answer; whether it did what was asked is not known."""


class PartHungError(PartLostError):
    """The part that was called gives no sign of life, or takes longer than any call may."""


class DataLostError(RunFailedError):
    """What was passed to a part vanished with the node that held it."""


class InterruptedRound(Exception):  # noqa: N818
    """The user asked to stop; the episodes in flight were dropped."""


class LearnerLostError(RunFailedError):
    """The learner is gone, and with it the round's transitions."""


class LearnerHungError(LearnerLostError):
    """The learner does not answer, and what it knows of the round is given up."""


def without_learner(error: PartLostError) -> LearnerLostError:
    """What the loss of a part means if that part is the learner."""
    return (LearnerHungError if isinstance(error, PartHungError) else LearnerLostError)(str(error))


class Executor(Protocol):
    """Calls methods of parts.

    ref = executor.call(worker, "start", requests)
    ready, pending = executor.wait([ref])
    executor.check(ready[0])
    value = executor.get(ref)
    """

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Begin `part.method(*args)`; calls to one part run one at a time, in the order they were made."""
        ...

    def ping(self, part: Any) -> Ref:
        """Ask a part for a sign of life; it is given at once, whatever the part is at work on, if its process runs."""
        ...

    def wait(self, refs: Sequence[Ref], timeout_sec: float | None = None) -> tuple[list[Ref], list[Ref]]:
        """Block until at least one call has ended, well or not; return those that have and those that have not.

        Args:
            refs: Calls.
            timeout_sec: Longest wait, after which none need have ended; None waits as long as any call may take.
        """
        ...

    def is_done(self, ref: Ref) -> bool:
        """Whether the call has ended, well or not."""
        ...

    def check(self, ref: Ref) -> None:
        """Wait for a call to end and raise what it raised; its result stays where it is.

        Raises:
            PartLostError: If the part was lost.
            DataLostError: If an argument was lost.
        """
        ...

    def get(self, ref: Ref) -> Any:
        """The result, or the exception of the call that should have made it, as `check` raises it."""
        ...


class LocalExecutor:
    """Runs every call at once, in this process."""

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Run `part.method(*args)` and keep what it returned."""
        return _Result(getattr(part, method)(*(a.value if isinstance(a, _Result) else a for a in args)))

    def ping(self, part: Any) -> Ref:  # noqa: ARG002 - it lives in this process
        """An answer."""
        return _Result(None)

    def wait(self, refs: Sequence[Ref], timeout_sec: float | None = None) -> tuple[list[Ref], list[Ref]]:  # noqa: ARG002 - never waits
        """Hand back the first; taking them in turn interleaves the parts as a cluster would."""
        return [refs[0]], list(refs[1:])

    def is_done(self, ref: Ref) -> bool:  # noqa: ARG002 - every call is
        """Whether the call has ended."""
        return True

    def check(self, ref: Ref) -> None:
        """Nothing to raise: a call that fails does so where it is made."""

    def get(self, ref: Ref) -> Any:
        """The result."""
        return ref.value


class _Result:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
