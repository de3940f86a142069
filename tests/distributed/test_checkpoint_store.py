"""Copies of checkpoints elsewhere, and runs that go on from them in a folder of their own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pyarrow import fs

from esper.cli.main import main
from esper.distributed.checkpoint import load_checkpoint, save_checkpoint
from esper.distributed.checkpoint_folder import CheckpointError, CheckpointFolder
from esper.distributed.checkpoint_store import CheckpointStore
from esper.distributed.session import train_run
from esper.leyline.load import ConfigError
from tests.distributed.runs import ROUNDS, STEPS_PER_ROUND, TINY, at_step, tiny_config, trace, weights
from tests.distributed.test_driver import PowerCutError, cut_power

if TYPE_CHECKING:
    from pathlib import Path

LEARNER = "learner.safetensors"


@pytest.fixture(params=["memory", "subtree"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> fs.FileSystem:
    if request.param == "memory":
        return fs.FileSystem.from_uri("mock:///")[0]
    (tmp_path / "bucket").mkdir()
    return fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())


@pytest.fixture
def store(filesystem: fs.FileSystem) -> CheckpointStore:
    return CheckpointStore(filesystem, "runs/first", "mock://runs/first")


def folder_with(root: Path, rounds: int, keep_last: int = 2) -> CheckpointFolder:
    folder = CheckpointFolder(root, keep_last)
    for n in range(1, rounds + 1):
        save(folder, n)
        folder.note_best(n, utility=10.0 - n)
        folder.forget_old()
    return folder


def save(folder: CheckpointFolder, n: int, value: float | None = None) -> None:
    tensors = {"weight": torch.full((3,), float(n) if value is None else value)}
    save_checkpoint(folder.path(n), tensors, {"rounds": n}, config={}, digests={})


def content(path: Path) -> tuple[Any, list[float]]:
    loaded = load_checkpoint(path)
    return loaded.state, loaded.tensors["weight"].tolist()


def spoil(filesystem: fs.FileSystem, path: str) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"{}")


def test_an_empty_folder_gets_back_the_last_few_and_the_best(store: CheckpointStore, tmp_path: Path) -> None:
    store.require_writable()
    source = CheckpointFolder(tmp_path / "a", 2)
    for n in range(1, 6):
        save(source, n)
        source.note_best(n, utility=10.0 - n)
        source.forget_old()
        store.update(source)
    other = CheckpointFolder(tmp_path / "b", 2)
    assert store.complete(other) == [1, 4, 5]
    assert other.rounds() == source.rounds() == [1, 4, 5]
    assert other.best() == source.best() == (1, 9.0)
    assert [content(other.path(n)) for n in other.rounds()] == [content(source.path(n)) for n in source.rounds()]
    assert store.complete(other) == []


def test_a_checkpoint_that_was_written_again_is_copied_again(store: CheckpointStore, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", 2)
    store.update(folder)
    save(folder, 2, value=7.0)
    store.update(folder)
    other = CheckpointFolder(tmp_path / "b", 2)
    store.complete(other)
    assert content(other.path(2)) == ({"rounds": 2}, [7.0, 7.0, 7.0])


@pytest.mark.parametrize("name", [LEARNER, "manifest.json"])
def test_a_damaged_copy_is_left_where_it_is_and_said_so(
    name: str, store: CheckpointStore, filesystem: fs.FileSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.update(folder_with(tmp_path / "a", 3))
    spoil(filesystem, f"runs/first/round-00003/{name}")
    other = CheckpointFolder(tmp_path / "b", 2)
    assert store.complete(other) == [1, 2]
    assert "damaged copy of round 3 at mock://runs/first" in capsys.readouterr().err
    assert other.sound() == ([1, 2], [])


def test_a_copy_that_broke_off_is_no_checkpoint(store: CheckpointStore, filesystem: fs.FileSystem, tmp_path: Path) -> None:
    store.update(folder_with(tmp_path / "a", 3))
    filesystem.delete_file("runs/first/round-00003/manifest.json")
    assert store.complete(CheckpointFolder(tmp_path / "b", 2)) == [1, 2]


def test_the_best_is_not_named_if_its_copy_is_lost(store: CheckpointStore, filesystem: fs.FileSystem, tmp_path: Path) -> None:
    store.update(folder_with(tmp_path / "a", 4))
    filesystem.delete_dir("runs/first/round-00001")
    other = CheckpointFolder(tmp_path / "b", 2)
    assert store.complete(other) == [3, 4]
    assert other.best() is None


def test_a_damaged_note_of_the_best_comes_back_from_the_copies(store: CheckpointStore, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", 3)
    store.update(folder)
    (folder.root / "best.json").write_bytes(b"")
    assert store.complete(folder) == []
    assert folder.best() == (1, 9.0)


def test_what_is_damaged_here_comes_back_and_what_is_whole_stays(store: CheckpointStore, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", 3)
    store.update(folder)
    (folder.path(3) / LEARNER).write_bytes(b"")
    save(folder, 2, value=7.0)
    assert store.complete(folder) == [3]
    assert content(folder.path(3)) == ({"rounds": 3}, [3.0, 3.0, 3.0])
    assert content(folder.path(2)) == ({"rounds": 2}, [7.0, 7.0, 7.0])


def test_a_place_that_was_away_for_a_while_is_brought_up_to_date(tmp_path: Path) -> None:
    store = CheckpointStore.open(str(tmp_path / "copies"))
    folder = folder_with(tmp_path / "a", 1)
    store.update(folder)
    (tmp_path / "copies").rename(tmp_path / "elsewhere")
    (tmp_path / "copies").touch()
    folder = folder_with(tmp_path / "a", 2)
    with pytest.raises(CheckpointError, match=r"checkpoint\.uri='.*copies'.*cannot write"):
        store.update(folder)
    (tmp_path / "copies").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "copies")
    store.update(folder)
    assert store.complete(CheckpointFolder(tmp_path / "b", 2)) == [1, 2]


@pytest.mark.parametrize("uri", ["copies", "./copies", "C:/copies", "~/copies"])
def test_a_relative_place_is_no_place(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.uri=.*absolute"):
        tiny_config(f"checkpoint.uri={uri}")


@pytest.mark.parametrize("uri", ["{tmp}/file/copies", "file://{tmp}/file/copies", "nowhere://bucket/run"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    uri = uri.format(tmp=tmp_path)
    assert main(["train", "--local", "--run-dir", str(tmp_path / "run"), *TINY, f"checkpoint.uri={uri}"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert f"checkpoint.uri='{uri}' cannot be" in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that lost its machine in its last round; the URI of its copies."""
    uri = f"file://{tmp_path}/copies"
    with monkeypatch.context() as fault, pytest.raises(PowerCutError):
        at_step(fault, (ROUNDS - 1) * STEPS_PER_ROUND + 2, cut_power)
        train_run(tiny_config(f"checkpoint.uri={uri}"), tmp_path / "lost", local=True)
    shutil.rmtree(tmp_path / "lost")
    return uri


def last_round(root: Path) -> list[dict[str, Any]]:
    return [row for row in trace(root).decisions if row["group_id"].endswith(f"/{ROUNDS - 1}")]


@pytest.mark.parametrize("command", ["resume", "train --continue"])
def test_a_run_goes_on_in_another_folder(command: str, broken_off: str, finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"
    arguments = {
        "resume": ["resume", "--local", "--from", broken_off, str(root)],
        "train --continue": ["train", "--local", "--continue", "--run-dir", str(root), *TINY, f"checkpoint.uri={broken_off}"],
    }
    assert main(arguments[command]) == 0
    assert weights(root, ROUNDS) == weights(finished, ROUNDS)
    assert last_round(root) == last_round(finished)
    third = CheckpointFolder(tmp_path / "third", 3)
    assert CheckpointStore.open(broken_off).complete(third) == [1, 2, 3]
    assert content_hash(third, ROUNDS) == weights(finished, ROUNDS)


def content_hash(folder: CheckpointFolder, n: int) -> str:
    root = folder.root.parent / "as-run"
    shutil.copytree(folder.root, root / "checkpoints")
    return weights(root, n)


def test_a_damaged_newest_copy_falls_back_to_the_one_before(
    broken_off: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copies" / f"round-{ROUNDS - 1:05d}" / LEARNER).write_bytes(b"")
    assert main(["resume", "--local", "--from", broken_off, str(tmp_path / "new")]) == 0
    assert f"damaged copy of round {ROUNDS - 1}" in capsys.readouterr().err
    assert weights(tmp_path / "new", ROUNDS) == weights(finished, ROUNDS)


def test_two_runs_do_not_share_a_place(broken_off: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new"
    command = ["train", "--local", "--run-dir", str(root), *TINY, f"checkpoint.uri={broken_off}"]
    assert main(command) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*command, "--continue", "seed=5"]) == 2
    assert "seed=0, not 5" in capsys.readouterr().err
    assert not root.exists()


def test_a_place_without_a_run_is_nothing_to_go_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "--local", "--from", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
