from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from esper.nissa.spool import Spool, left_behind
from esper.nissa.wire import decode, encode, identity_of
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from pathlib import Path

ROOM = 10**7


def payload(seq: int, incarnation: int = 0) -> bytes:
    return encode(heartbeat_batch(seq, incarnation=incarnation))


def seqs(spool: Spool) -> list[int]:
    return [identity_of(decode(held)).seq for held in spool.peek(len(spool))]


def test_memory_then_disk_keeps_the_order(tmp_path: Path) -> None:
    spool = Spool("env-0", memory_batches=2, folder=tmp_path, disk_bytes=ROOM)
    for seq in range(1, 6):
        assert spool.add(0, seq, payload(seq))
    assert spool.num_on_disk == 3
    assert seqs(spool) == [1, 2, 3, 4, 5]
    spool.mark_sent(2)
    assert spool.release(0, 2) == 2
    assert spool.add(0, 6, payload(6))
    assert spool.num_on_disk == 3
    assert seqs(spool) == [3, 4, 5, 6]


def test_without_room_a_batch_is_refused(tmp_path: Path) -> None:
    in_memory = Spool("env-0", memory_batches=1)
    assert in_memory.add(0, 1, payload(1))
    assert not in_memory.add(0, 2, payload(2))
    on_disk = Spool("env-0", memory_batches=1, folder=tmp_path, disk_bytes=len(payload(2)) + 8)
    accepted = [on_disk.add(0, seq, payload(seq)) for seq in (1, 2, 3)]
    assert accepted == [True, True, False]


def test_acknowledged_files_are_removed_and_their_room_is_free_again(tmp_path: Path) -> None:
    spool = Spool("env-0", memory_batches=1, folder=tmp_path, disk_bytes=len(payload(2)) + 8)
    assert spool.add(0, 1, payload(1))
    assert spool.add(0, 2, payload(2))
    spool.mark_sent(2)
    spool.release(0, 2)
    assert list(tmp_path.iterdir()) == []
    assert spool.add(0, 3, payload(3))
    assert spool.add(0, 4, payload(4))


def test_rewind_offers_everything_unacknowledged_again() -> None:
    spool = Spool("env-0", memory_batches=8)
    for seq in range(1, 5):
        spool.add(0, seq, payload(seq))
    spool.mark_sent(3)
    spool.release(0, 1)
    assert seqs(spool) == [4]
    spool.rewind()
    assert seqs(spool) == [2, 3, 4]


def test_the_next_life_finds_what_was_spilled_and_chains_past_what_died(tmp_path: Path) -> None:
    first = Spool("env/0 [x]", memory_batches=2, folder=tmp_path, disk_bytes=ROOM)
    for seq in range(1, 5):
        first.add(0, seq, payload(seq))
    second = Spool("env/0 [x]", memory_batches=2, folder=tmp_path, disk_bytes=ROOM)
    identities = [identity_of(decode(held)) for held in second.peek(9)]
    assert [(i.incarnation, i.seq, i.after) for i in identities] == [(0, 3, 0), (0, 4, 3)]
    assert second.last_seq(0) == 4
    assert first.spill() == 0
    third = Spool("env/0 [x]", memory_batches=2, folder=tmp_path, disk_bytes=ROOM)
    assert seqs(third) == [1, 2, 3, 4]
    assert seqs(Spool("env/0", memory_batches=2, folder=tmp_path, disk_bytes=ROOM)) == []


def test_an_unreadable_file_is_set_aside_and_the_rest_is_sent(tmp_path: Path) -> None:
    first = Spool("env-0", memory_batches=1, folder=tmp_path, disk_bytes=ROOM)
    for seq in (1, 2, 3):
        first.add(0, seq, payload(seq))
    damaged = min(tmp_path.glob("*.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert seqs(Spool("env-0", memory_batches=1, folder=tmp_path, disk_bytes=ROOM)) == [3]
    assert len(list(tmp_path.glob("*.corrupt"))) == 1


def test_a_life_that_is_over_is_read_from_its_files_without_taking_them(tmp_path: Path) -> None:
    gone = Spool("env-0", memory_batches=1, folder=tmp_path, disk_bytes=ROOM)
    for seq in range(1, 8):
        gone.add(0, seq, payload(seq))
    (tmp_path / "env-0@00000000@000000000004.arrow").write_bytes(b"noise")
    found = [identity_of(batch) for batch in left_behind(tmp_path, "env-0", 0, after=2, up_to=6)]
    assert [(one.seq, one.after) for one in found] == [(3, 2), (5, 3), (6, 5)]
    assert left_behind(tmp_path, "env-0", 1, after=0, up_to=6) == []
    assert left_behind(tmp_path / "nowhere", "env-0", 0, after=0, up_to=6) == []
    assert len(list(tmp_path.glob("*.arrow"))) == 6


@given(steps=st.lists(st.sampled_from(["add", "send", "release", "rewind"]), max_size=40))
@settings(max_examples=40, deadline=None)
def test_whatever_happens_nothing_is_reordered_or_forgotten(steps: list[str]) -> None:
    spool = Spool("env-0", memory_batches=100)
    added = sent = released = 0
    for step in steps:
        if step == "add":
            added += 1
            spool.add(0, added, payload(added))
        elif step == "send" and spool.num_waiting:
            spool.mark_sent(1)
            sent += 1
        elif step == "release" and sent > released:
            released += 1
            spool.release(0, released)
        elif step == "rewind":
            spool.rewind()
            sent = released
        assert seqs(spool) == list(range(sent + 1, added + 1))
        assert len(spool) == added - released
