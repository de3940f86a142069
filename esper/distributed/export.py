"""`esper export`: a trained policy out of its run, ready for a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.distributed.build import registry_digests, store_policy
from esper.distributed.checkpoint import load_checkpoint
from esper.distributed.checkpoint_folder import CheckpointError, CheckpointFolder
from esper.distributed.config import read_run_config
from esper.distributed.facts import examine
from esper.distributed.run_dir import open_run_dir
from esper.leyline.load import ConfigError
from esper.simic.learner_state import LearnerStateError

if TYPE_CHECKING:
    from pathlib import Path


def export_policy(root: Path, out: Path, *, checkpoint: Literal["latest", "best"]) -> str:
    """Write the policy of the run in `root` to the new directory `out`; the run stays as it is.

    Returns:
        The policy's version.

    Raises:
        RunDirError: If there is no run in `root`.
        CheckpointError: If it has no usable checkpoint.
        ConfigError: If `out` exists or cannot be written, or a data set of the run is not here.
    """
    if out.exists():
        raise ConfigError(f"--out {out} exists already; choose another folder")
    paths = open_run_dir(root, for_writing=False)
    config = read_run_config(paths.config)
    source = CheckpointFolder(paths.checkpoints, config.checkpoint.keep_last).choose(checkpoint)
    stored = load_checkpoint(source, digests=registry_digests())
    try:
        return store_policy(config, examine(config), stored, out)
    except LearnerStateError as error:
        raise CheckpointError(f"{source} does not fit this configuration: {error}") from error
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}") from error
