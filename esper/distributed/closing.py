"""Ends several things one after the other, each whatever became of those before it; the first error is the one that is raised."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from types import TracebackType


@contextmanager
def besides(error: BaseException | None) -> Iterator[None]:
    """Do something although `error` is on its way: what else goes wrong is noted with it. Without one, it is raised."""
    try:
        yield
    except Exception as another:
        if error is None:
            raise
        error.add_note(f"besides, {type(another).__name__}: {another}")


def close_at_end(stack: ExitStack, close: Callable[..., object], *args: Any) -> None:
    """Let `stack` call `close(*args)` when it unwinds, as `besides` the error that unwinds it."""

    def leave(_kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        with besides(error):
            close(*args)

    stack.push(leave)
