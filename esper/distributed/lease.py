"""Signs of life of a claim: its owner touches a file again and again, by which other machines can tell that it lives.

All times are those of the disk that holds the file, so that clocks of machines need not agree.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TOUCH_SEC = 10.0
"""Between two touches."""
LEASE_SEC = 120.0
"""A claim that was not touched for longer is one of a process that has ended, or has lost the disk."""


def keep(lock: Path, text: str) -> None:
    """Touch `lock` from now on, in a thread of its own, until it holds another text or is gone, or this process ends."""
    threading.Thread(target=_touch, args=(lock, text), name="lease", daemon=True).start()


def disk_time(folder: Path) -> float:
    """Seconds since 1970 by the clock that dates the files in `folder`; by this machine's where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.utime(probe.fileno())
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def _touch(lock: Path, text: str) -> None:
    is_mine = True
    while is_mine:
        time.sleep(TOUCH_SEC)
        with suppress(OSError):  # of a disk that is away for a while
            try:
                is_mine = lock.read_text() == text
            except FileNotFoundError:
                return
            if is_mine:
                os.utime(lock)
