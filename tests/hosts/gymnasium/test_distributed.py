"""Data-parallel training on a task of Gymnasium: two processes on the CPU end with the same weights."""

import pytest
import torch

from tests.ranks import train_ranks

ENVS, STEPS, ITERATIONS = 16, 8, 2


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["lif_ppo", "lif_rnd_ppo"])
def test_two_processes_make_one_run_with_the_same_weights(agent, tmp_path):
    line = ["--distributed", "--task", "Pendulum-v1", "--agent", agent, "--device", "cpu", "--num_envs", ENVS]
    line += ["--max_iterations", ITERATIONS, f"agent.num_steps_per_env={STEPS}"]
    line += ["agent.algorithm.num_learning_epochs=2", "agent.algorithm.num_mini_batches=4"]
    result, (first, second) = train_ranks(tmp_path, 2, line)
    assert (result["iterations"], result["env_steps"]) == (ITERATIONS, 2 * ENVS * STEPS * ITERATIONS)
    assert torch.equal(first, second)
    (tmp_path / "alone").mkdir()
    _, (alone,) = train_ranks(tmp_path / "alone", 1, line[1:])
    assert not torch.equal(first, alone), "the second process has a part in them"
