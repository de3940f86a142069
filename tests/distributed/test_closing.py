from __future__ import annotations

from contextlib import ExitStack

import pytest

from esper.distributed.closing import close_at_end


def fail(message: str) -> None:
    raise OSError(message)


def test_everything_is_closed_in_turn_and_the_first_error_is_raised() -> None:
    closed: list[str] = []
    with pytest.raises(OSError, match="second") as caught, ExitStack() as stack:
        close_at_end(stack, closed.append, "last")
        close_at_end(stack, fail, "third")
        close_at_end(stack, fail, "second")
        close_at_end(stack, closed.append, "first")
    assert closed == ["first", "last"]
    assert caught.value.__notes__ == ["besides, OSError: third"]


def test_an_error_under_way_is_not_replaced_by_what_goes_wrong_at_the_end() -> None:
    with pytest.raises(ValueError, match="the reason") as caught, ExitStack() as stack:
        close_at_end(stack, fail, "disk full")
        raise ValueError("the reason")
    assert caught.value.__notes__ == ["besides, OSError: disk full"]
