"""Grow neural networks while they train.

`esper.wrap` lets seeds grow in your own `nn.Module`; `esper.Dataset` is the data that it trains on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.kasmina.wrap import WrappedHost as WrappedHost
    from esper.kasmina.wrap import wrap as wrap
    from esper.leyline.host import WrapError as WrapError
    from esper.tolaria.data import Dataset as Dataset

__all__ = ["Dataset", "WrapError", "WrappedHost", "wrap"]

_HOMES = {
    "Dataset": "esper.tolaria.data",
    "WrapError": "esper.kasmina.wrap",
    "WrappedHost": "esper.kasmina.wrap",
    "wrap": "esper.kasmina.wrap",
}
"""Where a name is found when it is first asked for, so that `import esper` loads nothing else."""


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
