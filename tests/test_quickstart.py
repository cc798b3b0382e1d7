"""Python code that guides show runs, and learns where it says so."""

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def test_the_quickstart_learns_what_it_says_without_isaac_lab():
    text = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8")
    assert "isaaclab" not in text
    code = [line for line in text.partition("import torch")[2].splitlines() if line.strip()]
    assert len(code) <= 32
    assert runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"]() > 0.95


def test_the_guide_to_python_runs_from_top_to_bottom(capsys):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(blocks) >= 6 and names["actions"].shape == (32, 2) and names["out"].shape == (32, 64)
    (said,) = re.findall(r"print\(error\)  # (.*)", text)
    assert capsys.readouterr().out.strip() == said


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("stable_baselines3") is None, reason="stable_baselines3 is not installed: the extra 'dev'"
)
def test_stable_baselines3_trains_a_spiking_network():
    # in a process of its own: SB3 imports matplotlib and pandas
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['main'](10_000))"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(EXAMPLES / "stable_baselines3_ppo.py")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        float(done.stdout.split()[-1]) > 60
    ), "a policy that learns nothing stands for 9 to 25 steps; this one for 122"
