"""A real Ray head with a job server, on free ports and in a folder of its own, for one test module."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SEC = 180.0
_PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")


@contextmanager
def job_cluster(num_cpus: int = 2) -> Iterator[tuple[str, Path]]:
    """Start a head and yield its job server's address and the folder for RAY_TMPDIR; everything it started ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="ej", dir="/tmp"))  # socket paths must be short
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += [f"--num-cpus={num_cpus}", "--object-store-memory=100000000", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    environment = {
        **os.environ,
        "RAY_TMPDIR": str(folder),
        "WANDB_MODE": "disabled",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{ports['dashboard-port']}"
            _await(address, head, folder / "head.log")
            yield address, folder
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _await(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise RuntimeError(f"the head ended with {head.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"no job server at {address} after {START_SEC:g} s:\n{log.read_text()}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
