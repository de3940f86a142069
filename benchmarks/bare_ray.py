"""A fresh local Ray with as many processes as a run has parts, which import what theirs import first and do nothing."""

from __future__ import annotations

import argparse
import importlib
import logging


class Idle:
    """An actor that has imported a module."""

    def __init__(self, module: str) -> None:
        importlib.import_module(module)

    def ready(self) -> None:
        """Answer once that is done."""


def main() -> None:
    """Import torch, start Ray as a run does, and wait for all actors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", help="what each actor imports")
    modules = parser.parse_args().modules
    import ray
    import torch  # noqa: F401 - as the driver does

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    parts = [ray.remote(Idle).options(num_cpus=0).remote(module) for module in modules]
    ray.get([part.ready.remote() for part in parts])
    print("ready", flush=True)


if __name__ == "__main__":
    main()
