"""Arrays that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.load import ConfigError
from esper.tolaria.shared_data import mapped, shared_arrays, shared_folders

if TYPE_CHECKING:
    from collections.abc import Mapping


class Builder:
    """Reads numbers from a file, and counts how often it had to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0

    def __call__(self) -> Mapping[str, np.ndarray]:
        self.calls += 1
        numbers = np.array(self.path.read_text().split(), dtype=np.int64)
        return {"numbers": numbers, "squares": numbers**2}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("1 2 3")
    return path


def entries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()]


def test_arrays_are_built_once_and_then_mapped(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    for _ in range(2):
        arrays = shared_arrays([source], build, folders=[tmp_path / "cache"], recipe="numbers-1")
        assert arrays["numbers"].tolist() == [1, 2, 3]
        assert arrays["squares"].tolist() == [1, 4, 9]
        assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert build.calls == 1


def test_shared_arrays_cannot_be_written_to(source: Path, tmp_path: Path) -> None:
    arrays = shared_arrays([source], Builder(source), folders=[tmp_path / "cache"], recipe="numbers-1")
    with pytest.raises(ValueError, match="read-only"):
        arrays["numbers"][0] = 7


def test_a_changed_source_is_built_again_and_what_is_mapped_stays_readable(source: Path, tmp_path: Path) -> None:
    build, folder = Builder(source), tmp_path / "cache"
    before = shared_arrays([source], build, folders=[folder], recipe="numbers-1")["numbers"]
    source.write_text("4 5 6 7")
    after = shared_arrays([source], build, folders=[folder], recipe="numbers-1")["numbers"]
    assert after.tolist() == [4, 5, 6, 7]
    assert before.tolist() == [1, 2, 3]
    assert len(entries(folder)) == 1


def test_a_touched_source_of_the_same_size_is_built_again(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    shared_arrays([source], build, folders=[tmp_path / "cache"], recipe="numbers-1")
    source.write_text("9 8 7")
    os.utime(source, ns=(0, 12_345))
    assert shared_arrays([source], build, folders=[tmp_path / "cache"], recipe="numbers-1")["numbers"].tolist() == [9, 8, 7]


def test_recipes_and_sources_do_not_disturb_each_other(source: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "cache", tmp_path / "other.txt"
    other.write_text("10")
    builders = [Builder(source), Builder(source), Builder(other)]
    for _ in range(2):
        for build, recipe in zip(builders, ("numbers-1", "numbers-2", "numbers-1"), strict=True):
            shared_arrays([build.path], build, folders=[folder], recipe=recipe)
    assert [build.calls for build in builders] == [1, 1, 1]
    assert len(entries(folder)) == 3


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array([{}], dtype=object)], ids=["empty", "objects"])
def test_a_failed_build_leaves_nothing_behind(source: Path, tmp_path: Path, array: np.ndarray) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"empty|Object arrays"):
        shared_arrays([source], lambda: {"good": np.ones(3), "bad": array}, folders=[folder], recipe="numbers-1")
    assert entries(folder) == []
    build = Builder(source)
    assert shared_arrays([source], build, folders=[folder], recipe="numbers-1")["numbers"].tolist() == [1, 2, 3]


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with pytest.raises(FileNotFoundError, match="missing"):
        shared_arrays([missing], Builder(missing), folders=[tmp_path / "cache"], recipe="numbers-1")


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from esper.tolaria.shared_data import shared_arrays
source, folder, log = map(Path, sys.argv[1:])
def build():
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(0.3)
    return {"numbers": np.array(source.read_text().split(), dtype=np.int64)}
print(shared_arrays([source], build, folders=[folder], recipe="numbers-1")["numbers"].sum())
"""


def test_processes_that_ask_at_once_build_once(source: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(source), str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["6", "6"]
    assert log.read_text().count("built") == 1


MAPS = """
import sys
from pathlib import Path
from esper.tolaria.shared_data import shared_arrays
source, folder = map(Path, sys.argv[1:])
def build():
    raise AssertionError("the other process has built")
arrays = shared_arrays([source], build, folders=[folder], recipe="numbers-1")
print(*sorted(line.split()[4] for line in open("/proc/self/maps") if str(folder) in line))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_processes_map_the_same_pages(source: Path, tmp_path: Path) -> None:
    """What is mapped are pages of one file, none of them a process's own."""
    folder = tmp_path / "cache"
    arrays = shared_arrays([source], Builder(source), folders=[folder], recipe="numbers-1")
    assert arrays["numbers"].sum() == 6
    theirs = subprocess.run([sys.executable, "-c", MAPS, str(source), str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    ours = [area for area in Path("/proc/self/smaps").read_text().split("VmFlags") if str(folder) in area]
    assert sorted(header(area)[4] for area in ours) == theirs.stdout.split() != []
    assert all("Private_Dirty:         0 kB" in area for area in ours)


def header(area: str) -> list[str]:
    """Address, permissions, offset, device, inode and path of an area of `/proc/self/smaps`."""
    return next(line for line in area.splitlines() if "/" in line).split()


def test_a_mapping_is_shared_within_a_process_and_costs_one_file_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "bytes.bin"
    path.write_bytes(bytes(range(100)))
    first = mapped(path)
    opened = len(os.listdir("/proc/self/fd"))
    others = [mapped(path) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == opened
    assert all(np.shares_memory(first, other) for other in others)
    replacement = tmp_path / "new.bin"
    replacement.write_bytes(bytes(100))
    replacement.rename(path)
    assert not mapped(path).any() and first.sum() == sum(range(100))


@pytest.mark.parametrize("name", ["numbers.npy", "squares.npy", "contents.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted"])
def test_broken_arrays_are_built_again(source: Path, tmp_path: Path, name: str, damage: str) -> None:
    build, folder = Builder(source), tmp_path / "cache"
    shared_arrays([source], build, folders=[folder], recipe="numbers-1")
    (path,) = folder.glob(f"*/{name}")
    content = path.read_bytes()
    path.unlink()
    if damage != "deleted":
        path.write_bytes(content[:-5] if damage == "truncated" else b"")
    assert shared_arrays([source], build, folders=[folder], recipe="numbers-1")["squares"].tolist() == [1, 4, 9]
    assert build.calls == 2
    assert path.read_bytes() == content and len(entries(folder)) == 1


DIES = """
import os, sys
from pathlib import Path
import numpy as np
from esper.tolaria.shared_data import shared_arrays
source, folder = map(Path, sys.argv[1:])
class Dying(dict):
    def items(self):
        yield "numbers", np.ones(3)
        os.kill(os.getpid(), 9)
shared_arrays([source], Dying, folders=[folder], recipe="numbers-1")
"""


def test_a_process_that_dies_while_it_writes_leaves_no_lock_and_no_rest(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert subprocess.run([sys.executable, "-c", DIES, str(source), str(folder)], check=False).returncode == -9
    assert len(entries(folder)) == 1, "what it had written is still there"
    assert shared_arrays([source], Builder(source), folders=[folder], recipe="numbers-1")["numbers"].tolist() == [1, 2, 3]
    assert len(entries(folder)) == 1


def test_a_source_that_changes_while_it_is_read_is_an_error(source: Path, tmp_path: Path) -> None:
    def build() -> Mapping[str, np.ndarray]:
        source.write_text("1 2 3 4")
        return {"numbers": np.arange(3)}

    with pytest.raises(OSError, match="changed while being read"):
        shared_arrays([source], build, folders=[tmp_path / "cache"], recipe="numbers-1")
    assert entries(tmp_path / "cache") == []


def unwritable(tmp_path: Path, name: str) -> Path:
    """A folder that not even root can make: its parent is a file."""
    (tmp_path / name).write_text("")
    return tmp_path / name / "folder"


def test_arrays_go_to_the_first_folder_that_can_be_written_to(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    folders = [unwritable(tmp_path, "a"), tmp_path / "cache"]
    for _ in range(2):
        assert shared_arrays([source], build, folders=folders, recipe="numbers-1")["numbers"].tolist() == [1, 2, 3]
    assert build.calls == 1 and len(entries(tmp_path / "cache")) == 1


def test_arrays_are_taken_from_any_folder_that_has_them(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    shared_arrays([source], build, folders=[tmp_path / "second"], recipe="numbers-1")
    shared_arrays([source], build, folders=[tmp_path / "first", tmp_path / "second"], recipe="numbers-1")
    assert build.calls == 1 and not (tmp_path / "first").exists()


def test_no_folder_to_write_to_says_which_were_tried_and_what_to_set(source: Path, tmp_path: Path) -> None:
    folders = [unwritable(tmp_path, "a"), unwritable(tmp_path, "b")]
    build = Builder(source)
    with pytest.raises(ConfigError, match=r"none can be written in .*XDG_CACHE_HOME") as caught:
        shared_arrays([source], build, folders=folders, recipe="numbers-1")
    assert all(f"{folder} (" in str(caught.value) for folder in folders)
    assert build.calls == 0, "nothing is decoded that cannot be kept"


def test_folders_are_beside_the_data_and_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shared_folders(tmp_path) == (tmp_path / ".esper", tmp_path / "cache" / "esper")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert shared_folders(tmp_path)[1] == tmp_path / "home" / ".cache" / "esper"
