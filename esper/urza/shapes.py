"""Shapes of the values at a slot, one name for each host family."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Planes = Float[Tensor, "B C H W"]
"""CNN hosts."""
Tokens = Float[Tensor, "B T C"]
"""Transformer hosts."""
Rows = Float[Tensor, "*B C"]
"""Any number of leading axes: MLP hosts, and everything that treats positions alike."""
