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


class Executor(Protocol):
    """Calls methods of parts.

    ref = executor.call(worker, "start", requests)
    ready, pending = executor.wait([ref])
    value = executor.get(ref)
    """

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Begin `part.method(*args)`; calls to one part run one at a time, in the order they were made."""
        ...

    def wait(self, refs: Sequence[Ref]) -> tuple[list[Ref], list[Ref]]:
        """Block until at least one result exists; return those that do and those that do not."""
        ...

    def get(self, ref: Ref) -> Any:
        """The result, or the exception of the call that should have made it."""
        ...


class LocalExecutor:
    """Runs every call at once, in this process."""

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Run `part.method(*args)` and keep what it returned."""
        return _Result(getattr(part, method)(*(a.value if isinstance(a, _Result) else a for a in args)))

    def wait(self, refs: Sequence[Ref]) -> tuple[list[Ref], list[Ref]]:
        """Hand back the first; taking them in turn interleaves the parts as a cluster would."""
        return [refs[0]], list(refs[1:])

    def get(self, ref: Ref) -> Any:
        """The result."""
        return ref.value


class _Result:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
