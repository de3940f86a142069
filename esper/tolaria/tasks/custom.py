"""Episodes whose host and data a user's own function makes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from esper.kasmina.model import evaluating
from esper.kasmina.wrap import WrappedHost
from esper.leyline.host import WrapError
from esper.leyline.load import ConfigError
from esper.tolaria.data import Dataset
from esper.tolaria.tasks.base import Context, Episode, TaskPreset

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from esper.leyline.host import HostProtocol
    from esper.leyline.rng import SeedTree
    from esper.tolaria.config import TaskConfig

EXAMPLE = "my_package.module:make or path/to/file.py:make"
ON_RAY = "On Ray every worker imports it too: install its package there, or set PYTHONPATH before the cluster starts."
_HOST_PARTS = ("family", "shares_prefixes", "injection_specs", "layer_specs", "run")


def make_custom(config: TaskConfig, preset: TaskPreset, context: Context, *, seeds: SeedTree) -> Episode:
    """Call the factory that `config` names with a seed in 0…2³¹ − 1, and check what it makes.

        def make(seed: int) -> tuple[esper.WrappedHost, esper.Dataset]: ...

    Initial weights may come from torch's ambient generator, which `seeds` has set; whatever else is random should follow
    the seed. All seeds must give hosts with the same slots.

    The factory is called for every episode, and must make a new host each time. Data that take long to read or to make should be
    kept by a function of their own under `functools.cache`. A `Dataset` that is returned again is shared by all trials of
    the process: on a GPU they read one copy of it, and nobody may write to its tensors.

    Raises:
        ConfigError: If the factory cannot be had, or host and data do not fit together.
    """
    factory = find_factory(config.factory)
    name, node = f"task.factory={config.factory}", seeds.child("factory")
    with node.torch_scope():
        try:
            made = factory(node.integer() >> 32)
        except WrapError as error:
            raise ConfigError(f"{name}: {error}") from error
        host, dataset = _check_made(made, name)
        dataset = _shortened(dataset, config, name)
        _check_labels(dataset, name)
        _check_fit(host, dataset, name)
    _check_last_batch(host, len(dataset.train_x), preset.batch_size)
    return Episode(context, dataset, host)


def find_factory(text: str | None) -> Callable[[int], Any]:
    """Import what `module:function` or `file.py:function` names.

    Raises:
        ConfigError: If there is no such thing, or it cannot be called with one seed.
    """
    if not text:
        raise ConfigError(f"task.preset=custom needs task.factory, e.g. {EXAMPLE}")
    where, colon, what = text.rpartition(":")
    if not colon or not where or not what:
        raise ConfigError(f"task.factory={text} is not of the form {EXAMPLE}")
    module = _from_file(Path(where), text) if where.endswith(".py") else _from_module(where, text)
    factory = getattr(module, what, None)
    if factory is None:
        known = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
        raise ConfigError(f"task.factory={text}: {where} has no {what!r}; its functions: {', '.join(known) or 'none'}")
    if not callable(factory):
        raise ConfigError(f"task.factory={text}: {what} is of type {type(factory).__name__}; it should be a function make(seed: int)")
    try:
        inspect.signature(factory).bind(0)
    except TypeError as error:
        raise ConfigError(f"task.factory={text}: it should take one argument, the seed; calling it so fails: {error}") from error
    return cast("Callable[[int], Any]", factory)


def _from_module(name: str, text: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"task.factory={text} cannot be imported: {error}; install its package, put its folder on PYTHONPATH, or name the file "
            f"itself: path/to/file.py:make. {ON_RAY}"
        ) from error


def _from_file(path: Path, text: str) -> ModuleType:
    """Run a file once in a process, as a module that copies and pickles of its classes find again."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"task.factory={text}: there is no file {path}. {ON_RAY}")
    name = f"esper_factory_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise ConfigError(f"task.factory={text} cannot be imported: {error}; what it needs must be installed. {ON_RAY}") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_made(made: object, name: str) -> tuple[HostProtocol, Dataset]:
    wanted = "it should return (host, dataset): a host such as esper.wrap(model, slots, example=x), and an esper.Dataset"
    if not isinstance(made, tuple) or len(made) != 2:
        raise ConfigError(f"{name} returned a {type(made).__name__}; {wanted}")
    host, dataset = made
    missing = [part for part in _HOST_PARTS if not hasattr(type(host), part)]
    if not isinstance(host, nn.Module) or missing:
        raise ConfigError(f"{name} returned a {type(host).__name__} as host; {wanted}")
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"{name} returned a {type(dataset).__name__} as data; {wanted}")
    return cast("HostProtocol", host), dataset


def _shortened(dataset: Dataset, config: TaskConfig, name: str) -> Dataset:
    """The first samples of each part, as many as `config` asks for."""
    parts: dict[str, Tensor] = {}
    for part, wanted in (("train", config.num_train), ("val", config.num_val), ("test", config.num_test)):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        if wanted is not None and wanted > len(x):
            raise ConfigError(f"task.num_{part}={wanted}, but {name} made {len(x)} {part} samples; ask for at most that many")
        if wanted is not None:
            parts |= {f"{part}_x": x[:wanted], f"{part}_y": y[:wanted]}
    return replace(dataset, **parts)  # type: ignore[arg-type]


def _check_labels(dataset: Dataset, name: str) -> None:
    for part in ("train", "val", "test"):
        labels = getattr(dataset, f"{part}_y")
        if labels.dtype != torch.int64:
            raise ConfigError(f"{name}: {part}_y is {labels.dtype}; classes should be torch.int64")
        low, high = int(labels.min()), int(labels.max())
        last = dataset.num_classes - 1
        if low < 0 or high > last:
            raise ConfigError(f"{name}: {part}_y has classes {low}…{high}; with num_classes={last + 1} they should be 0…{last}")


def _check_fit(host: HostProtocol, dataset: Dataset, name: str) -> None:
    """Run the host without seeds on a few samples."""
    module = cast("nn.Module", host)
    device = next((parameter.device for parameter in module.parameters()), dataset.val_x.device)
    x, labels = dataset.val_x[:2].to(device), dataset.val_y[:2]
    try:
        with evaluating(module), torch.no_grad():
            logits = host.run(x, lambda _, value: value)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{name}: the host does not take inputs {list(x.shape)} {x.dtype} of the data set: {error}") from error
    if logits.shape[-1] != dataset.num_classes:
        raise ConfigError(
            f"{name}: the host has {logits.shape[-1]} logits and the data set {dataset.num_classes} classes; both should be the same"
        )
    if logits.shape[:-1] != labels.shape:
        raise ConfigError(
            f"{name}: logits {list(logits.shape)} for classes {list(labels.shape)}; classes should be [B] for logits [B, classes], "
            "[B, T] for logits [B, T, classes]"
        )


def _check_last_batch(host: HostProtocol, num_train: int, batch_size: int) -> None:
    """A batch that some models cannot be trained on should show before any training."""
    smallest = host.min_train_batch if isinstance(host, WrappedHost) else 1
    last = num_train % batch_size or batch_size
    if min(last, num_train) < smallest:
        raise ConfigError(
            f"{num_train} training samples in batches of {batch_size} leave a last batch of {min(last, num_train)}, and this "
            f"{type(host.model).__name__ if isinstance(host, WrappedHost) else 'host'} cannot be trained on fewer than {smallest} (batch "
            "norms need several values): set task.batch_size or task.num_train"
        )
