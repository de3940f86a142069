from __future__ import annotations

import pytest

from esper.distributed.meters import utilisation


def test_utilisation_is_the_mean_share_of_the_time_that_was_worked() -> None:
    assert utilisation({"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 2.0}, 2.0) == pytest.approx(0.75)


def test_a_worker_that_was_replaced_counts_from_its_beginning() -> None:
    assert utilisation({"a": 50.0}, {"c": 1.0}, 2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("after", "elapsed"), [({}, 1.0), ({"a": 1.0}, 0.0)])
def test_what_nobody_tells_is_unmeasured(after: dict[str, float], elapsed: float) -> None:
    assert utilisation({}, after, elapsed) is None


def test_rounding_never_shows_more_than_all() -> None:
    assert utilisation({}, {"a": 1.001}, 1.0) == 1.0
