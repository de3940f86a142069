"""What importing the package needs."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_PYG = """
import sys
sys.modules["torch_geometric"] = None
try:
    import esper.tamiyo
except ImportError as error:
    print(error)
"""


def test_missing_pytorch_geometric_is_told_at_once_with_the_remedy() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_PYG], capture_output=True, text=True, check=True)
    assert "pip install" in result.stdout
    assert "torch-geometric" in result.stdout
