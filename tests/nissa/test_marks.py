from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from esper.nissa.marks import HighWaterMarks, Verdict
from esper.nissa.wire import BatchId, identity_of
from tests.fakes.telemetry import heartbeat_batch


def test_judges_new_duplicate_and_early() -> None:
    marks = HighWaterMarks({("env-0", 0): 4})
    verdicts = [marks.judge(BatchId("env-0", 0, seq, seq - 1, "HEARTBEAT")) for seq in (4, 5, 6)]
    assert verdicts == [Verdict.DUPLICATE, Verdict.NEW, Verdict.EARLY]
    assert marks.judge(BatchId("env-0", 1, 1, 0, "HEARTBEAT")) is Verdict.NEW


def test_a_gap_that_the_producer_declares_is_accepted() -> None:
    assert HighWaterMarks().judge(BatchId("env-0", 0, 9, 0, "HEARTBEAT")) is Verdict.NEW


@given(arrivals=st.lists(st.integers(1, 6), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_order_with_repeats_stores_a_prefix_once_and_in_order(arrivals: list[int]) -> None:
    batches = {seq: heartbeat_batch(seq) for seq in range(1, 7)}
    stored = [identity_of(batch).seq for batch in HighWaterMarks().select_new([batches[seq] for seq in arrivals])]
    assert stored == list(range(1, len(stored) + 1))
    if 1 in arrivals:
        assert stored
