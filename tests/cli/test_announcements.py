"""Every command that may take a second says on a terminal what it is about to do, before PyTorch or a simulator is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiky_rl.cli import common
from spiky_rl.cli.__main__ import CHECKOUT_COMMANDS, COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ON_CARTPOLE = ["--task", "CartPole-v1", "--agent", "lif_ppo"]
STUDY = ["--agents", "lif_ppo,mlp_matched_ppo", "--tasks", "CartPole-v1"]
LINES = {
    "bench": ["latency"],
    "classify": ["--dataset", "digits"],
    "compare": STUDY,
    "demo": ["--task", "Isaac-Ant"],
    "evaluate": ON_CARTPOLE,
    "export": ON_CARTPOLE,
    "grow": ["--out", "grown.json"],
    "play": ON_CARTPOLE,
    "publish": ["logs/a_run"],
    "report": ["."],
    "show": ["agents", "lif_ppo", "--task", "CartPole-v1"],
    "train": ON_CARTPOLE,
    "tune": [*STUDY, "--trials", "7"],
}
"""Command -> arguments."""
SUBJECTS = {
    "bench": "latency",
    "classify": "digits",
    "compare": "lif_ppo, mlp_matched_ppo on CartPole-v1",
    "demo": "lif_ppo on Isaac-Ant",
    "grow": "grown.json",
    "publish": "logs/a_run",
    "tune": "7 trials",
}
"""Command -> words of its line; of the others, what they are to work on."""
SCRIPT = """
import io, json, os, runpy, sys

class Announced(BaseException):
    pass

class Terminal(io.StringIO):
    def isatty(self):
        return True
    def write(self, text):
        super().write(text)
        if text.endswith("\\n"):
            raise Announced

lines = json.load(sys.stdin)
sys.path.insert(0, os.getcwd())
from spiky_rl.cli import __main__
found = {}
for name, arguments in lines.items():
    sys.argv = ["spiky", name, *arguments]
    usual, sys.stderr = sys.stderr, Terminal()
    try:
        __main__.main()
    except Announced:
        pass
    finally:
        text, sys.stderr = sys.stderr.getvalue(), usual
    found[name] = text, [m for m in ("torch", "isaaclab", "mujoco", "gymnasium", "optuna") if m in sys.modules]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def announced(tmp_path_factory):
    """First line and imported libraries of every command, in one process, whose stderr is a terminal that ends at the first line."""
    (tmp_path_factory.getbasetemp() / "study.json").touch()  # report needs one
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path_factory.getbasetemp(),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'isaaclab_mujoco/src'}"},
        input=json.dumps(LINES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_command_is_asked():
    assert set(LINES) == {*COMMANDS, *CHECKOUT_COMMANDS} - {
        "verify_gpu"
    }, "verify_gpu reports what is missing"


@pytest.mark.parametrize("command", LINES)
def test_a_command_announces_its_work_before_heavy_imports(command, announced):
    text, imported = announced[command]
    assert SUBJECTS.get(command, LINES[command][-1]) in text and text.count("\n") == 1
    assert imported == []


@pytest.mark.parametrize(
    ("terminal", "rank", "said"), [(True, "0", True), (True, "1", False), (False, "0", False)]
)
def test_it_is_said_on_a_terminal_alone_and_once(terminal, rank, said, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("RANK", rank)
    common.announce("training an ant")
    assert capsys.readouterr().err == ("training an ant\n" if said else "")
