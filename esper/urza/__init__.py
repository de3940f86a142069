"""Urza: the catalogue of blueprints, what a seed may grow into, with costs and risks."""

from __future__ import annotations

from esper.urza.catalogue import Blueprint, Catalogue
from esper.urza.cost import Cost

__all__ = ["Blueprint", "Catalogue", "Cost"]
