from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.distributed.checkpoint import load_checkpoint, save_checkpoint
from esper.distributed.checkpoint_folder import CheckpointError, CheckpointFolder, OtherVersionError
from tests.fakes.disks import fill, small_disk

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(4)}
STATE = {"learner": {"version": 2}, "run": {"rounds": 2}}
DIGESTS = {"catalogue": "abc"}


def save(path: Path, state: Any = STATE) -> Path:
    save_checkpoint(path, TENSORS, state, config={"seed": 0}, digests=DIGESTS)
    return path


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path / "round-00001"), digests=DIGESTS)
    assert loaded.state == STATE
    assert loaded.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert loaded.manifest["config"] == {"seed": 0}


def test_a_checkpoint_is_safetensors_and_json_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "round-00001")
    assert {file.name for file in path.iterdir()} == {"learner.safetensors", "state.json", "manifest.json"}
    for file in path.glob("*.json"):
        json.loads(file.read_text())


def test_views_of_one_tensor_are_saved_apart(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_checkpoint(tmp_path / "c", {"all": base, "some": base[::2]}, {}, config={}, digests={})
    assert torch.equal(load_checkpoint(tmp_path / "c").tensors["some"], torch.tensor([0.0, 2.0, 4.0]))


def test_a_fault_while_writing_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "round-00001")
    with pytest.raises(TypeError):
        save(path, {"not": object()})
    assert load_checkpoint(path, digests=DIGESTS).state == STATE
    folder = CheckpointFolder(tmp_path, keep_last=3)
    assert folder.rounds() == [1]
    folder.forget_old()
    assert [entry.name for entry in tmp_path.iterdir()] == ["round-00001"]


def test_what_cannot_be_written_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        save(disk / "round-00001")
        fill(disk, leave_mib=0)
        (disk / "rest").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(CheckpointError, match=r"round-00002 cannot be written: .*No space left.* continue with `esper resume`"):
            save(disk / "round-00002")
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "rest", "round-00001"]
        load_checkpoint(disk / "round-00001", digests=DIGESTS)


def test_a_note_of_the_best_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=3)
    (tmp_path / ".best.json.tmp").mkdir()
    with pytest.raises(CheckpointError, match=r"best\.json cannot be written: .*; make room"):
        folder.note_best(1, 5.0)
    assert folder.best() is None


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path / "round-00001")
    save(tmp_path / "round-00001", {"run": {"rounds": 9}})
    assert load_checkpoint(tmp_path / "round-00001").state == {"run": {"rounds": 9}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["round-00001"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["learner.safetensors", "state.json"]), position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path: Path, name: str, position: int, bit: int) -> None:
    path = save(tmp_path / "round-00001")
    data = bytearray((path / name).read_bytes())
    data[position % len(data)] ^= 1 << bit
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_manifest_is_refused_or_harmless(tmp_path: Path, position: int, bit: int) -> None:
    file = save(tmp_path / "round-00001") / "manifest.json"
    data = bytearray(file.read_bytes())
    data[position % len(data)] ^= 1 << bit
    file.write_bytes(data)
    try:
        loaded = load_checkpoint(file.parent, digests=DIGESTS)
    except CheckpointError:
        return
    assert loaded.state == STATE


@pytest.mark.parametrize("name", ["learner.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "round-00001")
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


def rewrite(path: Path, **changes: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_other_registries_are_refused_with_the_version_that_fits(tmp_path: Path) -> None:
    path = save(tmp_path / "round-00001")
    with pytest.raises(OtherVersionError, match=r"digest of catalogue is abc, this version has xyz; .* another state of the code"):
        load_checkpoint(path, digests={"catalogue": "xyz"})
    rewrite(path, versions={"esper-morph": "0.0.7"})
    with pytest.raises(OtherVersionError, match=r"written by esper-morph 0\.0\.7 and this is .*: go on with that one, or begin a new run"):
        load_checkpoint(path, digests={"catalogue": "xyz"})


def test_a_newer_schema_is_refused_and_is_no_damage_to_go_back_from(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=3)
    for rounds in (1, 2):
        save(folder.path(rounds))
    rewrite(folder.path(2), schema_version=99, versions={"esper-morph": "99.0"}, sha256={"everything.bin": "abc"})
    with pytest.raises(OtherVersionError, match=r"schema 99 is newer than 1; it was written by esper-morph 99\.0"):
        load_checkpoint(folder.path(2))
    with pytest.raises(OtherVersionError, match="newer"):
        folder.sound()


@pytest.mark.parametrize("text", ["", "{", "7", "[]", '{"rounds": 1}', '{"rounds": "x", "utility": 1.0}'])
def test_a_damaged_note_of_the_best_counts_for_nothing_and_is_written_again(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    save(folder.path(1))
    (tmp_path / "best.json").write_text(text)
    assert folder.best() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "best.json is damaged" in line
    with pytest.raises(CheckpointError, match="use --checkpoint latest"):
        folder.choose("best")
    folder.note_best(1, 3.0)
    assert folder.best() == (1, 3.0)
    folder.forget_old()
    assert folder.choose("best") == folder.path(1)


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    for num_rounds, utility in enumerate([1.0, 5.0, 3.0, 5.0, 4.0], start=1):
        save(folder.path(num_rounds))
        folder.note_best(num_rounds, utility)
        folder.forget_old()
    assert folder.rounds() == [2, 4, 5]
    assert folder.best() == (2, 5.0)
    assert folder.latest() == folder.path(5)


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    (tmp_path / "round-copy").mkdir()
    assert folder.best() is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        folder.latest()


def test_damage_is_looked_for_from_the_newest_back_to_the_first_that_is_whole(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=3)
    for rounds in (1, 2, 3, 4):
        save(folder.path(rounds))
    (folder.path(4) / "manifest.json").unlink()
    (folder.path(3) / "state.json").write_text("{}")
    whole, complaints = folder.sound()
    assert whole == [1, 2]
    assert ["round-00004" in complaints[0], "round-00003" in complaints[1]] == [True, True]
    assert folder.rounds() == [1, 2, 3, 4]
