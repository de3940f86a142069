"""Prints every feature of an observation: `python -m esper.tamiyo`."""

from __future__ import annotations

from esper.tamiyo.graph_spec import GRAPH_SPEC

print(GRAPH_SPEC.table())
