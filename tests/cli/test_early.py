"""What a command can refuse by itself is refused before Isaac Lab is imported, and where it can be before torch: in a second."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_errors import assert_refused

ROOT = Path(__file__).resolve().parents[2]
EARLY = {
    "task": (
        "train",
        ["--task", "Isaac-Cartpol-v0"],
        ["--task: 'Isaac-Cartpol-v0'", "Isaac-Cartpole"],
        False,
    ),
    "task's file": ("play", ["--task", "cartpol"], ["--task: 'cartpol'", "did you mean cartpole"], False),
    "task far from all": ("train", ["--task", "zzz"], ["--task: 'zzz'", "cartpole"], False),
    "task of an agent's file": (
        "train",
        ["--agent", "{agent}"],
        ["mine.yaml: tasks: 'Isaac-Antt'", "Isaac-Ant"],
        False,
    ),
    "task of show": (
        "show",
        ["agents", "lif_ppo", "--task", "Isaac-Antt"],
        ["'Isaac-Antt'", "Isaac-Ant"],
        False,
    ),
    "neuron": ("train", ["agent.network.neuron.tau=-1"], ["neuron.tau: -1.0", "between 0.001 and"], False),
    "neurons": (
        "train",
        ["agent.network.neuron=[lif, {name: lif, tau: -1}]"],
        ["neuron[1].tau: -1.0"],
        False,
    ),
    "encoder's name": (
        "train",
        ["agent.network.encoder=rat"],
        ["encoder.name: unknown encoder 'rat'"],
        False,
    ),
    "checkpoint": ("train", ["--checkpoint", "no/model.pt"], ["--checkpoint 'no/model.pt'"], False),
    "network": ("train", ["agent.network.steps=-1"], ["network.steps: -1", "between 1 and"], True),
}
"""Command, its arguments, words of the error, and whether torch is imported for it."""
EARLY_SCRIPT = """
import contextlib, io, json, sys
from spiky_rl.cli import common, play, show, train
results = {}
for case, (name, argv) in json.load(sys.stdin).items():
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = common.run(getattr(globals()[name], name), argv)
    results[case] = code, stderr.getvalue(), [m for m in ("torch", "isaaclab", "isaaclab_tasks") if m in sys.modules]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Exit code, stderr and imported libraries of every case of `EARLY`, in one process."""
    agent = tmp_path_factory.mktemp("early") / "mine.yaml"
    agent.write_text("tasks: {Isaac-Ant: {history: 2}, Isaac-Antt: {history: 2}}", encoding="utf-8")
    lines = {}
    for case, (name, arguments, *_) in EARLY.items():
        start = [] if name == "show" or "--task" in arguments else ["--task", "cartpole"]
        lines[case] = name, [*start, *(str(agent) if a == "{agent}" else a for a in arguments)]
    # a process of its own: those of `processes` have imported everything before
    done = subprocess.run(
        [sys.executable, "-c", EARLY_SCRIPT],
        cwd=ROOT,
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", EARLY)
def test_what_needs_no_isaac_lab_is_refused_before_it_is_imported_and_mostly_before_torch(case, early):
    _, _, words, needs_torch = EARLY[case]
    code, stderr, imported = early[case]
    assert_refused(code, stderr, *words)
    assert imported == (["torch"] if needs_torch else [])
