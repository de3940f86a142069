"""The form of telemetry on its way: one Arrow record batch of one event type, with an identity that makes replays harmless."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


class WireError(ValueError):
    """Bytes or a batch that do not follow the wire format."""


@dataclass(frozen=True, slots=True)
class BatchId:
    """Who made a batch, in which life, and its place in the order."""

    source: str
    """Producer, e.g. `learner` or `env-3`."""
    incarnation: int
    """Life of the producer; higher after every restart."""
    seq: int
    """1, 2, 3 … within an incarnation."""
    after: int
    """Sequence number of the batch sent before this one; 0 where none was, or where it died with its producer."""
    event_type: str
    """Name of the events' type."""
    dropped_events: int = 0
    """Events this incarnation has given up so far because every buffer was full, or because they could not be encoded."""


_PREFIX = b"esper."
_TEXT_KEYS = ("source", "event_type")
_NUMBER_KEYS = ("incarnation", "seq", "after", "dropped_events")


def stamp(batch: pa.RecordBatch, identity: BatchId) -> pa.RecordBatch:
    """Write `identity` into the batch's schema metadata."""
    metadata = dict(batch.schema.metadata or {})
    for key in (*_TEXT_KEYS, *_NUMBER_KEYS):
        metadata[_PREFIX + key.encode()] = str(getattr(identity, key)).encode()
    return batch.replace_schema_metadata(metadata)


def identity_of(batch: pa.RecordBatch) -> BatchId:
    """Read the identity that `stamp` wrote.

    Raises:
        WireError: If the batch carries none.
    """
    metadata = batch.schema.metadata or {}
    try:
        texts = {key: metadata[_PREFIX + key.encode()].decode() for key in _TEXT_KEYS}
        numbers = {key: int(metadata[_PREFIX + key.encode()]) for key in _NUMBER_KEYS}
    except KeyError as error:
        raise WireError(f"the record batch has no {error.args[0].decode()} in its metadata; stamp it first") from None
    return BatchId(
        source=texts["source"],
        incarnation=numbers["incarnation"],
        seq=numbers["seq"],
        after=numbers["after"],
        event_type=texts["event_type"],
        dropped_events=numbers["dropped_events"],
    )


def encode(batch: pa.RecordBatch) -> bytes:
    """Arrow IPC stream of one stamped batch."""
    identity_of(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(payload: bytes) -> pa.RecordBatch:
    """Read what `encode` wrote.

    Raises:
        WireError: If the bytes are cut short, hold no Arrow stream, or the batch has no identity.
    """
    try:
        with pa.ipc.open_stream(pa.BufferReader(payload)) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowInvalid, StopIteration, EOFError, OSError) as error:
        raise WireError(f"{len(payload)} bytes are not one Arrow record batch: {error}") from error
    identity_of(batch)
    return batch
