"""One command for all: it lists what there is, starts it, and knows a name that is nearly right."""

import subprocess
import sys
from pathlib import Path

from spiky_rl.cli.__main__ import COMMANDS, get_summary

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
BENCHMARKS = {"bench", "verify_gpu"}


def spiky(*arguments):
    line = [sys.executable, "-m", "spiky_rl.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_script_that_ships_is_a_command():
    assert set(COMMANDS) == {path.stem for path in SCRIPTS.glob("*.py")} - BENCHMARKS


def test_alone_it_lists_all_commands_and_what_they_do():
    done = spiky()
    assert done.returncode == 0
    assert all(f"  {name}" in done.stdout and get_summary(name) in done.stdout for name in COMMANDS)
    assert all(len(get_summary(name)) > 10 for name in COMMANDS)


def test_it_starts_what_is_named():
    done = spiky("show", "agents")
    assert done.returncode == 0 and "lif_ppo" in done.stdout


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    done = spiky("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'train'" in done.stderr
