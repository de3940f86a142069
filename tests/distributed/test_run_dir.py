from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from esper.distributed import lease, run_dir
from esper.distributed.run_dir import (
    Owner,
    RunDir,
    RunDirBusyError,
    RunDirError,
    claim,
    create_run_dir,
    discard_run_dir,
    missing_folders,
    open_evaluation_dir,
    open_run_dir,
    owner,
    release,
    release_run_dir,
    require_claim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def test_a_ray_job_does_not_play_on_where_it_would_be_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    relative = root.relative_to(tmp_path)
    with pytest.raises(RunDirError, match="run folder run: inside a Ray job give an absolute path"):
        open_run_dir(relative, for_writing=True)
    open_run_dir(relative, for_writing=False)
    open_run_dir(root, for_writing=True)


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the age of processes is told by Linux")
def test_a_process_that_has_only_the_number_of_one_that_ended_does_not_hold_the_folder(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    paths = open_run_dir(make_run(tmp_path / "run"), for_writing=False)
    paths.lock.write_text(Owner(platform.node(), stranger.pid).to_text())
    before_it_began = time.time() - 60.0
    os.utime(paths.lock, (before_it_began, before_it_began))
    assert owner(paths) is None
    open_run_dir(paths.root, for_writing=True)
    assert owner(paths) == Owner(platform.node(), os.getpid())


ELSEWHERE = Owner("node-7", os.getpid())


@pytest.fixture
def foreign(tmp_path: Path) -> RunDir:
    """A run that another machine has claimed just now."""
    paths = open_run_dir(make_run(tmp_path / "run"), for_writing=False)
    paths.lock.write_text(ELSEWHERE.to_text())
    return paths


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SEC", 0.6)
    monkeypatch.setattr(lease, "TOUCH_SEC", 0.05)
    monkeypatch.setattr(run_dir, "LOOK_SEC", 0.1)


def age(lock: Path, seconds: float) -> None:
    """Let a lock look as if it had last been touched so long ago."""
    then = time.time() - seconds
    os.utime(lock, (then, then))


def test_the_claim_of_another_machine_that_has_shown_no_sign_of_life_for_long_is_taken_at_once(foreign: RunDir) -> None:
    age(foreign.lock, lease.LEASE_SEC + 1.0)
    assert owner(foreign) is None
    open_run_dir(foreign.root, for_writing=True)
    assert owner(foreign) == Owner(platform.node(), os.getpid())


def test_a_fresh_claim_of_another_machine_is_watched_and_taken_if_nothing_comes(
    foreign: RunDir, short_lease: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert owner(foreign) == ELSEWHERE
    open_run_dir(foreign.root, for_writing=True)
    assert owner(foreign) == Owner(platform.node(), os.getpid())
    assert f"process {os.getpid()} on host node-7; looking whether it still lives" in capsys.readouterr().err


def test_a_claim_from_the_future_is_watched_for_one_lease_and_no_longer(foreign: RunDir, short_lease: None) -> None:
    age(foreign.lock, -3600.0)
    open_run_dir(foreign.root, for_writing=True)
    assert owner(foreign) == Owner(platform.node(), os.getpid())


def test_a_claim_that_another_machine_keeps_touching_is_refused_with_the_reason(foreign: RunDir, short_lease: None) -> None:
    told = foreign.lock.read_text()
    lease.keep(foreign.lock, told)
    with pytest.raises(RunDirBusyError, match=rf"being written by process {os.getpid()} on host node-7, which lives"):
        open_run_dir(foreign.root, for_writing=True)
    assert foreign.lock.read_text() == told
    foreign.lock.unlink()


def test_a_claim_shows_signs_of_life_until_it_is_released(tmp_path: Path, short_lease: None) -> None:
    paths = create_run_dir(tmp_path / "run")
    age(paths.lock, 3600.0)
    deadline = time.monotonic() + 60.0
    while time.time() - paths.lock.stat().st_mtime > 60.0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - paths.lock.stat().st_mtime < 60.0
    release_run_dir(paths)
    time.sleep(5 * lease.TOUCH_SEC)
    assert not paths.lock.exists()


def test_who_lost_its_claim_to_another_machine_learns_of_it_and_leaves_it_alone(tmp_path: Path, short_lease: None) -> None:
    paths = create_run_dir(tmp_path / "run")
    require_claim(paths.lock)
    paths.lock.write_text(ELSEWHERE.to_text())
    with pytest.raises(RunDirBusyError, match=r"taken over by process \d+ on host node-7, after .* no sign of life"):
        require_claim(paths.lock)
    age(paths.lock, 3600.0)
    time.sleep(5 * lease.TOUCH_SEC)
    assert time.time() - paths.lock.stat().st_mtime > 3000.0
    release_run_dir(paths)
    assert paths.lock.exists()


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


def test_a_discarded_folder_leaves_nothing_behind_that_was_not_there(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "run"
    for is_there in (False, True):
        if is_there:
            root.mkdir(parents=True)
        made = missing_folders(root)
        paths = create_run_dir(root)
        paths.config.touch()
        (paths.spool / "env-0").mkdir()
        discard_run_dir(paths, made)
        release_run_dir(paths)
        assert root.exists() == is_there
        assert (tmp_path / "deep").exists() == is_there
    assert not any(root.iterdir())


def test_a_folder_in_which_something_has_happened_is_not_discarded(tmp_path: Path) -> None:
    for name in ("telemetry.duckdb", "checkpoints/round-00001"):
        made = missing_folders(tmp_path / "run")
        paths = create_run_dir(tmp_path / "run")
        paths.config.touch()
        (paths.root / name).touch()
        discard_run_dir(paths, made)
        assert paths.config.exists()
        assert (paths.root / name).exists()
        (paths.root / name).unlink()
        discard_run_dir(paths, made)


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
    assert lock.read_text() == told
    lock.unlink()
    claim(lock)
    claim(lock)
    release(lock)
    assert not lock.exists()
