"""No hidden state: nothing rebinds a module's names, and nothing seeds torch behind the run's back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import esper

ROOT = Path(esper.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAY_SEED_TORCH = {Path("leyline/rng.py")}
"""Inside a scope that restores what was before."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_rebinds_a_global(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    assert [node.lineno for node in nodes if isinstance(node, ast.Global)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_randomness_comes_from_the_seed_tree(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    seeding = {"torch.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "np.random.seed", "random.seed"}
    assert path.relative_to(ROOT) in MAY_SEED_TORCH or not calls & seeding
