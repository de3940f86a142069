from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.telemetry.schema import record_batch
from esper.nissa.wire import BatchId, WireError, decode, encode, identity_of, stamp
from tests.fakes.telemetry import heartbeat, heartbeat_batch


@given(
    source=st.text(min_size=1, max_size=20),
    incarnation=st.integers(0, 2**40),
    seq=st.integers(1, 2**40),
    dropped=st.integers(0, 2**40),
)
@settings(max_examples=30, deadline=None)
def test_identity_and_rows_survive_the_wire(source: str, incarnation: int, seq: int, dropped: int) -> None:
    identity = BatchId(source, incarnation, seq, seq - 1, "HEARTBEAT", dropped)
    batch = record_batch([heartbeat(3.0), heartbeat(4.0)])
    received = decode(encode(stamp(batch, identity)))
    assert identity_of(received) == identity
    assert received.to_pylist() == batch.to_pylist()


def test_an_unstamped_batch_is_refused() -> None:
    with pytest.raises(WireError, match=r"esper\.source"):
        encode(record_batch([heartbeat()]))


@pytest.mark.parametrize("length", [0, 7, 200, -9])
def test_damaged_bytes_are_refused(length: int) -> None:
    payload = encode(heartbeat_batch(1))
    with pytest.raises(WireError):
        decode(payload[: len(payload) // 2] if length < 0 else payload[:length])
