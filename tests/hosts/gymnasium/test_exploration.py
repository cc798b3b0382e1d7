"""Random network distillation: novelty is rewarded in training, its predictor learns, and returns are the task's alone."""

import json

import pytest
import torch

from spiky_rl.run.simulate import open_env
from tests.hosts.gymnasium.planned import make_runner, plan_of
from tests.hosts.gymnasium.scripted import SCRIPTS

SCRIPT = f"{SCRIPTS}Script-v0"
SMALL = ["agent.num_steps_per_env=10"]
SMALL += ["agent.algorithm.num_learning_epochs=2", "agent.algorithm.num_mini_batches=4"]
PLAIN = ["agent.algorithm.rnd_cfg.reward_normalization=false", "agent.algorithm.reward_normalization=false"]


def test_ppo_learns_from_the_task_and_the_intrinsic_reward():
    plan = plan_of(SCRIPT, "lif_rnd_ppo", *SMALL, *PLAIN)
    with open_env(plan) as env, torch.inference_mode():
        alg = make_runner(plan, env).alg
        obs = env.get_observations()
        for step in range(4):  # before the time limit, where a value is added
            obs, rewards, dones, extras = env.step(alg.act(obs))
            alg.process_env_step(obs, rewards, dones, extras)
            assert (alg.intrinsic_rewards > 0).all()
            wanted = rewards + alg.intrinsic_rewards
            torch.testing.assert_close(alg.storage.rewards[step].squeeze(-1), wanted)


@pytest.mark.slow
def test_the_predictor_learns_and_what_is_known_is_rewarded_less():
    plan = plan_of("Pendulum-v1", "lif_rnd_ppo", *SMALL, *PLAIN)
    with open_env(plan) as env:
        runner = make_runner(plan, env)
        rnd, losses, seen = runner.alg.rnd, [], env.get_observations()
        target = [p.clone() for p in rnd.target.parameters()]
        assert rnd.initial_weight == pytest.approx(env.step_dt)
        runner.on_iteration = lambda iteration: losses.append(iteration.losses["rnd"])
        runner.learn(1)
        before = rnd.get_intrinsic_reward(seen).mean()
        runner.learn(15)
        after = rnd.get_intrinsic_reward(seen).mean()
    assert losses[-1] < 0.3 * losses[0] and 0.0 < after < 0.6 * before, (losses, before, after)
    assert all(torch.equal(a, b) for a, b in zip(target, rnd.target.parameters(), strict=True))


@pytest.mark.slow
def test_the_return_of_a_run_is_the_tasks(command, tmp_path):
    run = ["--task", SCRIPT, "--agent", "lif_rnd_ppo", "--device", "cpu", "--num_envs", 32]
    code, _, stderr = command("train", *run, "--log_root", tmp_path, "--max_iterations", 3, *SMALL)
    assert code == 0, stderr
    (result,) = tmp_path.glob("rsl_rl/*/*/result.json")
    assert json.loads(result.read_text())["mean_return_final"] == 15.0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(result.parent))
    curves.Reload()
    extrinsic, intrinsic = (
        curves.Scalars(f"Rnd/mean_{name}_reward")[-1].value for name in ("extrinsic", "intrinsic")
    )
    assert extrinsic == 15.0 and intrinsic > 0.0
    # a run is resumed with its predictor
    code, _, stderr = command(
        "train", *run, "--log_root", tmp_path, "--max_iterations", 1, "--checkpoint", result.parent, *SMALL
    )
    assert code == 0, stderr
    checkpoint = torch.load(result.parent / "model_2.pt", weights_only=True)
    assert any(name.startswith("predictor") for name in checkpoint["rnd_state_dict"])
