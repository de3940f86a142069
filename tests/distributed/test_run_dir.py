from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from esper.distributed.run_dir import (
    Owner,
    RunDirBusyError,
    RunDirError,
    claim,
    create_run_dir,
    discard_run_dir,
    open_evaluation_dir,
    open_run_dir,
    owner,
    release,
    release_run_dir,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CLAIMANT = """
import sys
from pathlib import Path
from esper.distributed.run_dir import RunDirBusyError, claim
lock = Path(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:
    try:
        claim(lock)
        print("won", flush=True)
    except RunDirBusyError:
        print("busy", flush=True)
"""


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Another living process."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def make_run(root: Path) -> Path:
    paths = create_run_dir(root)
    paths.config.write_text("seed: 0\n")
    release_run_dir(paths)
    return root


def test_a_new_folder_is_claimed_and_released(tmp_path: Path) -> None:
    paths = create_run_dir(tmp_path / "deep" / "run")
    assert owner(paths) == Owner(platform.node(), os.getpid())
    assert paths.checkpoints.is_dir()
    assert paths.spool.is_dir()
    release_run_dir(paths)
    assert not paths.lock.exists()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert create_run_dir(tmp_path).root == tmp_path


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"holds a run already.*esper resume"):
        create_run_dir(make_run(tmp_path / "run"))


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunDirError, match="not empty"):
        create_run_dir(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirError, match="cannot be written"):
            create_run_dir(root)


def test_a_ray_job_needs_an_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RunDirError, match="absolute"):
        create_run_dir((tmp_path / "run").relative_to(tmp_path))
    create_run_dir(tmp_path / "run")


def test_a_folder_without_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds no run"):
        open_run_dir(tmp_path, for_writing=False)


def test_two_processes_do_not_write_to_one_run(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    root = make_run(tmp_path / "run")
    paths = open_run_dir(root, for_writing=False)
    paths.lock.write_text(Owner(platform.node(), stranger.pid).to_text())
    with pytest.raises(RunDirError, match=f"being written by process {stranger.pid}"):
        open_run_dir(root, for_writing=True)
    assert owner(paths) == Owner(platform.node(), stranger.pid)
    open_run_dir(root, for_writing=False)
    stranger.kill()
    stranger.wait()
    open_run_dir(root, for_writing=True)
    assert owner(paths) == Owner(platform.node(), os.getpid())


def test_a_claim_of_another_machine_is_explained_and_not_taken(tmp_path: Path) -> None:
    paths = open_run_dir(make_run(tmp_path / "run"), for_writing=False)
    claim = Owner("node-7", os.getpid())
    paths.lock.write_text(claim.to_text())
    with pytest.raises(RunDirError, match=rf"being written by process {os.getpid()} on host node-7; whether .* delete {paths.lock}"):
        open_run_dir(paths.root, for_writing=True)
    assert owner(paths) == claim
    paths.lock.unlink()
    open_run_dir(paths.root, for_writing=True)


@pytest.mark.parametrize("text", ["", "{", '{"host": "a"}', "7"])
def test_a_claim_that_was_never_written_out_holds_nobody_up(tmp_path: Path, text: str) -> None:
    root = make_run(tmp_path / "run")
    open_run_dir(root, for_writing=False).lock.write_text(text)
    open_run_dir(root, for_writing=True)


def test_evaluations_take_turns_and_leave_the_run_free(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    paths = open_run_dir(make_run(tmp_path / "run"), for_writing=False)
    scratch = open_evaluation_dir(paths)
    assert not paths.lock.exists()
    scratch.lock.write_text(Owner(platform.node(), stranger.pid).to_text())
    with pytest.raises(RunDirError, match="being written"):
        open_evaluation_dir(paths)


def test_a_discarded_folder_can_be_used_again(tmp_path: Path) -> None:
    paths = create_run_dir(tmp_path / "run")
    paths.config.touch()
    discard_run_dir(paths)
    release_run_dir(paths)
    create_run_dir(tmp_path / "run")


def test_of_many_that_find_a_claim_whose_owner_has_ended_one_takes_it(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock = tmp_path / ".owner"
    command = [sys.executable, "-c", CLAIMANT, str(lock)]
    claimants = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]

    def hear() -> list[str]:
        return [str(one.stdout.readline()).strip() for one in claimants if one.stdout]

    try:
        assert set(hear()) == {"ready"}
        for _ in range(20):
            lock.write_text(Owner(platform.node(), dead.pid).to_text())
            for one in claimants:
                assert one.stdin is not None
                one.stdin.write("now\n")
                one.stdin.flush()
            assert sorted(hear()) == ["busy"] * 5 + ["won"]
    finally:
        for one in claimants:
            one.communicate()


def test_who_is_refused_leaves_the_claim_as_it_is(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    lock = tmp_path / ".owner"
    told = Owner(platform.node(), stranger.pid).to_text()
    lock.write_text(told)
    with pytest.raises(RunDirBusyError, match=f"written by process {stranger.pid}"):
        claim(lock)
    assert lock.read_text() == told
    release(lock)
    claim(lock)
    claim(lock)
    assert lock.read_text() == Owner(platform.node(), os.getpid()).to_text()
