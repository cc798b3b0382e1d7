"""``bench.py physics`` times both physics of a task in turns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from benchmarks import run as bench
from spiky_rl.cli import common

ROOT = Path(__file__).parents[2]
SMALL = [
    "--tasks",
    "Isaac-Cartpole",
    "--num_envs",
    "16",
    "--rounds",
    "2",
    "--slice",
    "3",
    "--assets",
    "local",
]


@pytest.mark.slow
def test_both_physics_are_timed_in_turns(tmp_path):
    line = ["scripts/bench.py", "physics", *SMALL, "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(
        [sys.executable, *line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["physics"] for row in rows] == ["newton_mjwarp", "mujoco"]
    for row in rows:
        assert row["physics_alone"] > row["env_steps_per_second"] > 0.0
        assert row["physics"] in done.stdout and f"{row['ratio']:.2f}" in done.stdout
    assert rows[0]["ratio"] == 1.0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--threads", "5000"], ["--threads", "5000", "between 1 and"]),
        (["--tasks", "Isaac-Antt"], ["Isaac-Antt", "Isaac-Ant"]),
        (["--json", "x.txt"], ["--json", "x.txt", ".json"]),
    ],
)
def test_bad_arguments_end_in_one_line_before_a_simulation_starts(arguments, words, capsys):
    assert common.run(bench.bench, ["physics", "--assets", "local", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
