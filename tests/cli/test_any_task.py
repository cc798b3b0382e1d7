"""Tasks that we ship no file for: Isaac Lab's own, and one that another package registers."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
RUN = ["--device", "cpu", "--assets", "local", "--num_envs", "16", "--max_iterations", "2"]

PACKAGE = '''
"""A package of somebody else's, with a task of its own."""

import gymnasium
from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlMLPModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg
from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg


@configclass
class BalanceCfg(CartpoleEnvCfg):
    """Cartpole with episodes of one second."""

    def __post_init__(self):
        super().__post_init__()
        self.episode_length_s = 1.0


@configclass
class RunnerCfg(RslRlOnPolicyRunnerCfg):
    num_steps_per_env = 12
    max_iterations = 7
    save_interval = 50
    experiment_name = "outside"
    obs_groups = {"actor": ["policy"], "critic": ["policy"]}
    actor = RslRlMLPModelCfg(
        hidden_dims=[24, 24], activation="elu",
        distribution_cfg=RslRlMLPModelCfg.GaussianDistributionCfg(init_std=1.0),
    )
    critic = RslRlMLPModelCfg(hidden_dims=[24, 24], activation="elu")
    algorithm = RslRlPpoAlgorithmCfg(
        value_loss_coef=1.0, use_clipped_value_loss=True, clip_param=0.2, entropy_coef=0.0, num_learning_epochs=2,
        num_mini_batches=2, learning_rate=1e-3, schedule="adaptive", gamma=0.99, lam=0.95, desired_kl=0.01, max_grad_norm=1.0,
    )


gymnasium.register(
    id="Outside-Balance",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": BalanceCfg, "rsl_rl_cfg_entry_point": RunnerCfg},
)
'''


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """The folder of an installed package that registers Outside-Balance by Isaac Lab's entry point."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "outside.py").write_text(PACKAGE)
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[isaaclab.tasks]\noutside = outside\n")
    return folder


def train(task: str, agent: str, logs: Path, extra: Path | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join(str(p) for p in (extra, os.environ.get("PYTHONPATH")) if p)
    line = ["--task", task, "--agent", agent, *RUN, "--log_root", logs]
    return processes.run(ROOT / "scripts/train.py", *line, PYTHONPATH=path)


def result_of(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(Path(done.stdout.strip().splitlines()[-1]).read_text())


@pytest.mark.slow
def test_a_reservoir_trains_on_a_task_of_another_package(outside, tmp_path):
    found = result_of(train("Outside-Balance", "lif_reservoir_ppo", tmp_path, outside))
    assert found["task"] == "Outside-Balance"
    assert found["env_steps"] == 2 * 16 * 12, "PPO's settings are the package's own"
    assert found["firing_rate"] > 0
    assert (tmp_path / "rsl_rl" / "outside").is_dir()


@pytest.mark.slow
def test_an_agent_trains_on_a_task_of_isaac_labs_without_a_file_of_ours(tmp_path):
    found = result_of(train("Isaac-Cartpole-Direct", "alif_recurrent_ppo", tmp_path))
    assert found["task"] == "Isaac-Cartpole-Direct" and found["iterations"] == 2


def test_a_task_that_nobody_registers_is_refused_before_a_simulator_starts(outside, tmp_path):
    done = train("Outside-Balanse", "lif_ppo", tmp_path, outside)
    assert done.returncode == 2
    assert "Outside-Balance" in done.stderr, "the nearest id is named"


@pytest.mark.slow
def test_a_masked_task_has_a_name_of_its_own(tmp_path):
    found = result_of(train("cartpole_masked", "lif_stateful_ppo", tmp_path))
    assert found["task"] == "cartpole_masked"
    run = next((tmp_path / "rsl_rl" / "cartpole_masked").iterdir())
    assert json.loads((run / "run.json").read_text())["task"] == "cartpole_masked"
    specification = (run / "params" / "env.yaml").read_text()
    assert "joint_vel_rel: null" in specification
