"""Arrays that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.tolaria.shared_data import shared_arrays, shared_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
        arrays = shared_arrays([source], build, folder=tmp_path / "cache", recipe="numbers-1")
        assert arrays["numbers"].tolist() == [1, 2, 3]
        assert arrays["squares"].tolist() == [1, 4, 9]
        assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert build.calls == 1


def test_shared_arrays_cannot_be_written_to(source: Path, tmp_path: Path) -> None:
    arrays = shared_arrays([source], Builder(source), folder=tmp_path / "cache", recipe="numbers-1")
    with pytest.raises(ValueError, match="read-only"):
        arrays["numbers"][0] = 7


def test_a_changed_source_is_built_again_and_what_is_mapped_stays_readable(source: Path, tmp_path: Path) -> None:
    build, folder = Builder(source), tmp_path / "cache"
    before = shared_arrays([source], build, folder=folder, recipe="numbers-1")["numbers"]
    source.write_text("4 5 6 7")
    after = shared_arrays([source], build, folder=folder, recipe="numbers-1")["numbers"]
    assert after.tolist() == [4, 5, 6, 7]
    assert before.tolist() == [1, 2, 3]
    assert len(entries(folder)) == 1


def test_a_touched_source_of_the_same_size_is_built_again(source: Path, tmp_path: Path) -> None:
    build = Builder(source)
    shared_arrays([source], build, folder=tmp_path / "cache", recipe="numbers-1")
    source.write_text("9 8 7")
    os.utime(source, ns=(0, 12_345))
    assert shared_arrays([source], build, folder=tmp_path / "cache", recipe="numbers-1")["numbers"].tolist() == [9, 8, 7]


def test_recipes_and_sources_do_not_disturb_each_other(source: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "cache", tmp_path / "other.txt"
    other.write_text("10")
    builders = [Builder(source), Builder(source), Builder(other)]
    for _ in range(2):
        for build, recipe in zip(builders, ("numbers-1", "numbers-2", "numbers-1"), strict=True):
            shared_arrays([build.path], build, folder=folder, recipe=recipe)
    assert [build.calls for build in builders] == [1, 1, 1]
    assert len(entries(folder)) == 3


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array([{}], dtype=object)], ids=["empty", "objects"])
def test_a_failed_build_leaves_nothing_behind(source: Path, tmp_path: Path, array: np.ndarray) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"empty|Object arrays"):
        shared_arrays([source], lambda: {"good": np.ones(3), "bad": array}, folder=folder, recipe="numbers-1")
    assert entries(folder) == []
    build = Builder(source)
    assert shared_arrays([source], build, folder=folder, recipe="numbers-1")["numbers"].tolist() == [1, 2, 3]


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with pytest.raises(FileNotFoundError, match="missing"):
        shared_arrays([missing], Builder(missing), folder=tmp_path / "cache", recipe="numbers-1")


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
print(shared_arrays([source], build, folder=folder, recipe="numbers-1")["numbers"].sum())
"""


def test_processes_that_ask_at_once_build_once(source: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(source), str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["6", "6"]
    assert log.read_text().count("built") == 1


def test_folder_is_beside_the_data_or_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shared_folder(tmp_path) == tmp_path / ".esper"
    assert shared_folder(tmp_path / "absent") == tmp_path / "cache" / "esper"
