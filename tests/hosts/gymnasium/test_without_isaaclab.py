"""Nothing but Isaac Lab's own host needs Isaac Lab: every other module is imported, and an agent trained, where it cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import spiky_rl

BLOCKED = ("isaaclab", "isaaclab_mujoco", "isaaclab_newton", "isaaclab_rl", "isaaclab_tasks", "newton", "pxr")
SCRIPT = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # an import of it fails, and find_spec finds nothing
for name in sys.argv[3].split(","):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra that is not installed
        if error.name is None or error.name.partition(".")[0] in {"spiky_rl", *sys.argv[1].split(",")}:
            raise
from spiky_rl.cli import common
from spiky_rl.cli.train import train
sys.exit(common.run(train, ["--task", "Pendulum-v1", "--agent", "lif_ppo", "--device", "cpu", "--max_iterations", "1",
                            "--log_root", sys.argv[2], "agent.num_steps_per_env=4"]))
"""


def list_modules() -> list[str]:
    package = Path(spiky_rl.__file__).parent
    paths = [path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    skipped = ("spiky_rl.hosts.isaaclab", "spiky_rl.hosts.mjlab.", "spiky_rl.kernels.backends.cupy")
    return [name for name in names if not name.startswith(skipped) and not name.endswith("__main__")]


@pytest.mark.slow
def test_everything_but_its_host_works_without_isaaclab(tmp_path):
    arguments = [sys.executable, "-c", SCRIPT, ",".join(BLOCKED), str(tmp_path), ",".join(list_modules())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(tmp_path.glob("rsl_rl/Pendulum-v1/*/result.json"))
