"""Every task that Isaac Lab registers for rsl_rl trains for an iteration, or ends in one line that says what it lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

ROOT = Path(__file__).parents[2]
OFFLINE = {
    f"Isaac-{name}{twin}" for name in ("Ant", "Cartpole", "Cartpole-Camera", "Humanoid") for twin in ("", "-Direct")
} | {"Spiky-Velocity-Flat-Go1"}  # fmt: skip
"""Those whose robots are derived from Newton's wheel, or fetched once with mjlab's: they need no asset server."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_registered_task_trains_or_ends_in_one_true_line(tmp_path):
    line = [sys.executable, "-m", "tests.hosts.every_task_case", str(tmp_path)]
    plain = {key: value for key, value in os.environ.items() if key != "ISAACSIM_ASSET_ROOT"}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [
        json.loads(row.removeprefix("RESULT")) for row in done.stdout.splitlines() if row.startswith("RESULT")
    ]
    found = {row["task"]: row for row in rows}
    assert len(found) > 80 and found.keys() >= OFFLINE
    for task, row in found.items():
        said = row["error"].splitlines()
        assert "Traceback" not in row["error"], task
        if row["code"] == 0:
            assert not [text for text in said if text.startswith("error:")], task
            continue
        assert task not in OFFLINE, said[-1]
        assert row["code"] in (1, 2), (task, row["code"], said[-1:])
        assert [text for text in said if text.startswith("error:")] == said[-1:], task
        assert " lies " in said[-1] and (
            "--assets nucleus" in said[-1] or "NEWTON_ASSET_DIR" in said[-1]
        ), task
