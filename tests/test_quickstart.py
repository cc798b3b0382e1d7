"""The Python quickstart runs, is short, and learns."""

import runpy
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"


def test_the_quickstart_learns_what_it_says_without_isaac_lab():
    text = FILE.read_text(encoding="utf-8")
    assert "isaaclab" not in text
    code = [line for line in text.partition("import torch")[2].splitlines() if line.strip()]
    assert len(code) <= 32
    assert runpy.run_path(str(FILE))["main"]() > 0.95
