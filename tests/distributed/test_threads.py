from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from esper.distributed.actors import RayExecutor, close_session, open_session, start_part, stop_part
from esper.distributed.build import prepare_process
from esper.distributed.config import ClusterConfig

WORK = """
import json
import torch
from esper.distributed.build import prepare_process

def threads_of(share):
    prepare_process(share)
    torch.autograd.backward((torch.ones(400, 400, requires_grad=True) @ torch.ones(400, 400)).sum())
    return torch.get_num_threads()

print(json.dumps([threads_of(share) for share in (0.25, 0.75, 1.9, 2.0, 3.5)]))
"""


class Computing:
    """A part that computes with a share of the CPUs, and says with how many threads."""

    def __init__(self, share: float) -> None:
        prepare_process(share)

    def num_threads(self) -> int:
        torch.autograd.backward((torch.ones(400, 400, requires_grad=True) @ torch.ones(400, 400)).sum())
        return torch.get_num_threads()

    def close(self) -> None:
        pass


def test_a_process_computes_with_the_whole_cpus_of_its_share() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, 1, 1, 2, 3]


@pytest.mark.ray
@pytest.mark.slow
def test_an_actor_computes_with_the_whole_cpus_of_its_share() -> None:
    open_session(ClusterConfig(), namespace="test-threads")
    try:
        executor = RayExecutor(timeout_sec=300.0)
        for share, threads in ((0.75, 1), (2.0, 2)):
            part = start_part(f"computing-{threads}", Computing, (share,), cpus=share)
            assert executor.get(executor.call(part, "num_threads")) == threads
            stop_part(part, timeout_sec=60.0)
    finally:
        close_session()
