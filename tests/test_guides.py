"""The commands of the guides run in a reader's folder, page by page from top to bottom; trainings and episodes are shortened."""

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cli.test_classify_use import folder as make_recordings
from tests.documented import PAGES, ROOT, find_own_command, read_commands, read_python

SHORTENED = {
    "train": ["--device", "cpu", "--max_iterations", "1", "--num_envs", "8"],
    "play": ["--device", "cpu", "--episodes", "1", "--num_envs", "1"],
    "evaluate": ["--device", "cpu", "--episodes", "2"],
    "export": ["--device", "cpu"],
    "classify": ["--device", "cpu"],
    "compare": ["--dry-run"],
    "tune": ["--dry-run"],
    "grow": ["--tournaments", "2"],
}
"""Verb -> further arguments. Comparisons and tunings are checked, not run: test_compare.py and test_tune.py run small ones."""
DROPPED = {
    "--budget",
    "--visualizer",
    "--viz",
    "--episodes",
    "--num_envs",
    "--max_iterations",
    "--processes",
    "--tournaments",
}
"""Flags whose values make a command long, or need a screen."""
NOT_RUN = {
    "publish": "it writes into the checkout; tests/run/test_policies.py runs it",
    "bench": "tests/benchmarks runs it",
    "--tuning": "a tuning takes hours; tests/cli/test_tune.py uses one",
    "--distributed": "torchrun starts it; tests/hosts/gymnasium/test_distributed.py does so",
    "--ray_address": "it needs a cluster; tests/experiments/test_engines.py has a small one",
    "--logger wandb": "it needs wandb; tests/hosts/gymnasium/test_wandb.py has it offline",
    "isaacsim_physx": "Isaac Sim is not installed",
    "physics=newton_mjwarp": "MuJoCo-Warp compiles for minutes on a CPU; tests/hosts runs it",
    "--dataset nmnist": "the published recordings are not here; tests/datasets reads samples of them",
    "--dataset ev_objects": "the published recordings are not here; tests/datasets reads samples of them",
    "--dataset stemnist": "the published recordings are not here; tests/datasets reads samples of them",
}
"""Part of a command -> why it is not run here."""
SIMULATORS = {"Mjlab-": "mjlab", "Isaac-": "isaaclab", "go1_flat": "isaaclab", "own_robot.py": "isaaclab"}
"""Part of a command -> package that it needs."""
PRETRAINED = ["--agent", "lif_ppo", "--checkpoint", "pretrained", "--device", "cpu"]
GUIDES = [
    page for page in PAGES if page.name != "README.md" and any(map(find_own_command, read_commands(page)))
]


class Reader:
    """A folder in which the commands of a page run one after the other, and the files that they name."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.folder, self.trained = folder, set()
        path = [str(ROOT), str(ROOT / "isaaclab_mujoco" / "src"), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        for name in ("examples", "studies", "agents"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("figures"))
        text = page.read_text(encoding="utf-8")
        for block in map(
            textwrap.dedent, re.findall(r"^ *```yaml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
        ):
            for name in re.findall(r"\b(my_agent|mine|my_space)\.yaml", text):
                if re.search("^shared:" if name == "my_space" else "^network:", block, re.MULTILINE):
                    (folder / f"{name}.yaml").write_text(block, encoding="utf-8")

    def run(self, verb: str, arguments: list[str]) -> None:
        """Run a command of the page, after a training if it needs one."""
        needs_run = verb in ("play", "evaluate", "export") or {"latest", "best"} & set(arguments)
        values = dict(itertools.pairwise(arguments))
        if needs_run and values.get("--checkpoint") != "pretrained":
            self._train(values)
        if "agent.network.file=other.nir" in arguments:
            self._require("export", "--task", "Isaac-Cartpole", *PRETRAINED, "--to", "nir")
            shutil.copy(next(self.folder.rglob("policy.nir")), self.folder / "other.nir")
        if "FOLDER" in arguments and not (self.folder / "FOLDER").exists():
            make_recordings(self.folder / "FOLDER", 30, 0)
        self._require(verb, *map(self._fill_in, shorten(verb, arguments)))
        if verb == "train":
            self.trained.add((values["--task"], values["--agent"]))

    def _train(self, values: dict[str, str]) -> None:
        """Train the agent on the task of a command, unless it has a run here."""
        if (values["--task"], values["--agent"]) not in self.trained:
            flags = [flag for flag in ("--task", "--agent", "--rl_library") if flag in values]
            self._require(
                "train", *(word for flag in flags for word in (flag, values[flag])), *SHORTENED["train"]
            )
            self.trained.add((values["--task"], values["--agent"]))

    def _fill_in(self, word: str) -> str:
        """Put the newest run in the place of RUN, and the first one in the place of <date>."""
        if word == "RUN":
            return str(max(self.folder.rglob("result.json"), key=lambda path: path.stat().st_mtime_ns).parent)
        before, date, _ = word.partition("<date>")
        return str(min((self.folder / before).iterdir())) if date else word

    def _require(self, verb: str, *arguments: str) -> None:
        line = [sys.executable, "-m", "spiky_rl.cli", verb, *arguments]
        done = subprocess.run(
            line, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(line[3:])}:\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"


def shorten(verb: str, arguments: list[str]) -> list[str]:
    """Leave out what makes a command long or needs a screen."""
    kept, rest = [], iter(arguments)
    for word in rest:
        if word in DROPPED:
            next(rest)
        elif word not in ("--real-time", "--dry-run"):
            kept.append(word)
    return [*kept, *SHORTENED.get(verb, [])]


def can_run(words: list[str]) -> bool:
    """Whether the simulator of the command's task is installed, and nothing in `NOT_RUN` names the command."""
    line = " ".join(words)
    modules = [module for prefix, module in SIMULATORS.items() if prefix in line]
    return not any(part in line for part in NOT_RUN) and all(map(importlib.util.find_spec, modules))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_guide_run_from_top_to_bottom(page, tmp_path):
    reader = Reader(page, tmp_path)
    for words in read_commands(page):
        if (found := find_own_command(words)) is not None and found[0] != "--version" and can_run(words):
            reader.run(*found)


def test_code_of_the_first_page_runs(tmp_path):
    names: dict[str, object] = {}
    for block in read_python(ROOT / "docs" / "index.md"):
        exec(compile(block, "docs/index.md", "exec"), names)
    assert names["actions"].shape == (32, 8)
