"""Settings of tasks: which preset, where data lie, and what differs from the preset."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline.load import setting


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """Which episodes are played. A value left out is the preset's."""

    preset: str = setting("image-mix", "name of a task preset; an unknown one is answered with the list")
    factory: str | None = setting(
        None, "with preset custom: what makes host and data from a seed, e.g. my_package.module:make or path/to/file.py:make"
    )
    data_dir: str = setting(
        "data",
        "folder of CIFAR's binary files or of train.parquet and test.parquet, where what is read is kept for others in .esper (or in "
        "$XDG_CACHE_HOME/esper if it is read-only); unused by built-in tasks",
    )
    contexts: tuple[str, ...] = setting((), "restrict to these contexts, e.g. texture/linear@1; empty means all of the preset")
    num_train: int | None = setting(None, "training samples of an episode; with custom the first of so many", unit="samples", ge=1)
    num_val: int | None = setting(None, "validation samples of an episode; with custom the first of so many", unit="samples", ge=1)
    num_test: int | None = setting(None, "test samples of an episode; with custom the first of so many", unit="samples", ge=1)
    max_epochs: int | None = setting(None, "host epochs, and so decisions, of an episode", unit="epochs", ge=1)
    batch_size: int | None = setting(None, "samples in a training batch", unit="samples", ge=1)
    learning_rate: float | None = setting(None, "peak learning rate of host and seeds", gt=0.0)
    image_column: str = setting("image", "Parquet column of images")
    tokens_column: str = setting("tokens", "Parquet column of token lists")
    label_column: str = setting("label", "Parquet column of classes")
