"""`esper sweep`: begin or continue a search over settings, and report what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.exit_codes import INTERRUPTED, OK
from esper.distributed.run_dir import RunDirError
from esper.distributed.sweep.config import read_sweep
from esper.distributed.sweep.layout import open_sweep_dir
from esper.distributed.sweep.search import confirm, resume_sweep, start_sweep, stored_sweep
from esper.karn.store import StoreError
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    import argparse

REPORT = "report"


def run_sweep_command(options: argparse.Namespace) -> int:
    """Dispatch on `FILE …`, `--resume DIR` and `report DIR`.

    Raises:
        ConfigError: If the words make no sense together, or something in the file is wrong.
        RunDirError: If a folder cannot be used, or its database cannot be read.
    """
    try:
        return _run(options)
    except StoreError as error:
        raise RunDirError(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    words = [word for word in options.settings if "=" not in word]
    overrides = [word for word in options.settings if "=" in word]
    if words[:1] == [REPORT]:
        if len(words) != 2 or overrides:
            raise ConfigError("esper sweep report takes the folder of one sweep, e.g. esper sweep report sweeps/smoke")
        return _report(Path(words[1]), options.confirm)
    if options.confirm is not None:
        raise ConfigError(f"--confirm {options.confirm} goes with esper sweep report SWEEP_DIR")
    if options.resume is not None:
        if words or overrides:
            raise ConfigError(f"--resume {options.resume} goes on with what is stored there; leave out {' '.join(options.settings)}")
        return _finish(options.resume, resume_sweep(options.resume))
    if len(words) != 1:
        raise ConfigError("esper sweep takes one sweep file, e.g. esper sweep configs/sweep/smoke.yaml")
    sweep = read_sweep(Path(words[0]), overrides)
    root = options.sweep_dir or Path("sweeps") / sweep.name
    return _finish(root, start_sweep(sweep, root))


def _finish(root: Path, was_interrupted: bool) -> int:
    from esper.distributed.sweep.report import write_report

    if was_interrupted:
        print(f"stopped; continue with: esper sweep --resume {root}")
        return INTERRUPTED
    write_report(open_sweep_dir(root))
    return OK


def _report(root: Path, num_seeds: int | None) -> int:
    from esper.distributed.sweep.report import best_trial, write_report
    from esper.karn.sweeps import SweepStore

    folder = open_sweep_dir(root)
    if num_seeds is not None:
        sweep = stored_sweep(folder)
        best = best_trial(SweepStore(folder.database).trials(), sweep.config.metric, sweep.config.mode)
        if confirm(folder, sweep, dict(best.parameters), num_seeds):
            print(f"stopped; continue with: esper sweep report {root} --confirm {num_seeds}")
            return INTERRUPTED
    write_report(folder)
    return OK
