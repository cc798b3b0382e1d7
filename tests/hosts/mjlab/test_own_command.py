"""mjlab's own train with our agents: it trains, writes an ONNX file, and its checkpoint acts the same in our runner."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

mjlab = pytest.importorskip(
    "mjlab", reason="needs mjlab, which no environment with Isaac Lab has: make test-mjlab"
)
import numpy as np
import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper

from spiky_rl.config.errors import UserError
from spiky_rl.hosts.mjlab.agents import register_agent
from spiky_rl.hosts.mjlab.configs import SpikingModelCfg, make_agent_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner

CARTPOLE = "Mjlab-Cartpole-Balance"


@pytest.fixture(name="own")
def trained_by_mjlab(tmp_path, monkeypatch, request):
    """The configuration, folder and environments of a training of two iterations by mjlab's own functions."""
    from mjlab.scripts.train import TrainConfig, launch_training

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    name = register_agent(CARTPOLE, request.param)
    cfg = TrainConfig.from_task(name)
    cfg.env.scene.num_envs, cfg.env.episode_length_s = 16, 0.5
    cfg.agent.logger, cfg.agent.max_iterations, cfg.agent.num_steps_per_env = "tensorboard", 2, 10
    launch_training(name, dataclasses.replace(cfg, log_root=str(tmp_path)))
    (folder,) = tmp_path.glob("cartpole/*")
    cfg = TrainConfig.from_task(name)
    cfg.env.scene.num_envs = 4
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg.env, "cpu"))
    yield cfg, folder, env
    env.close()


@pytest.mark.parametrize("own", ["lif_ppo", "lif_stateful_ppo"], indirect=True)
def test_a_checkpoint_of_mjlab_its_onnx_file_and_our_runner_act_alike(own):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from mjlab.rl import MjlabOnPolicyRunner

    cfg, folder, env = own
    theirs = MjlabOnPolicyRunner(env, dataclasses.asdict(cfg.agent), None, "cpu")
    theirs.load(str(folder / "model_1.pt"), {"actor": True}, map_location="cpu")
    settings = dataclasses.asdict(cfg.agent)
    for model in (settings["actor"], settings["critic"]):
        for key in ("cnn_cfg", "rnn_type", "rnn_hidden_dim", "rnn_num_layers"):
            del model[key]
    del settings["critic"]["distribution_cfg"]
    ours = RslRlRunner(env, settings, None, "cpu")
    loaded = torch.load(folder / "model_1.pt", weights_only=True)
    ours.alg.load(loaded, {"actor": True, "critic": True}, True)
    policies = [runner.get_inference_policy("cpu") for runner in (theirs, ours)]
    (path,) = folder.glob("*.onnx")
    session = onnxruntime.InferenceSession(path)
    names = [i.name for i in session.get_inputs()]
    state = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.name != "obs"}
    obs = env.get_observations()
    with torch.inference_mode():
        for _ in range(20):
            actions = [policy(obs) for policy in policies]
            assert torch.equal(*actions), "the same weights give the same bits through either runner"
            fed = {"obs": obs["actor"][:1].numpy(), **state}
            exported, *after = session.run(None, fed)
            np.testing.assert_allclose(exported, actions[0][:1].numpy(), atol=1e-5)
            state = dict(zip(names[1:], after, strict=True))
            obs, _, _, _ = env.step(actions[0])
    assert bool(state) == theirs.alg.get_policy().is_recurrent


def test_a_task_of_ones_own_takes_a_spiking_actor():
    from mjlab.tasks.registry import load_rl_cfg

    rl_cfg = load_rl_cfg(CARTPOLE)
    rl_cfg.actor.class_name = "spiky_rl.learners.rsl_rl:SpikingModel"  # one line: LIF neurons in hidden_dims
    cfg = make_agent_cfg("lif_stateful_ppo", load_rl_cfg(CARTPOLE))
    assert isinstance(cfg.actor, SpikingModelCfg) and cfg.actor.network["stateful"]
    assert cfg.experiment_name == rl_cfg.experiment_name and cfg.critic.class_name == "MLPModel"
    assert (
        cfg.algorithm.critic_learning_rate == 1e-2
        and cfg.algorithm.entropy_coef == rl_cfg.algorithm.entropy_coef
    )
    from mjlab.rl import MjlabOnPolicyRunner
    from mjlab.tasks.registry import load_env_cfg

    env_cfg = load_env_cfg(CARTPOLE)
    env_cfg.scene.num_envs = 2
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(env_cfg, "cpu"))
    try:
        for agent in (rl_cfg, cfg):
            runner = MjlabOnPolicyRunner(env, dataclasses.asdict(agent), None, "cpu")
            assert type(runner.alg.get_policy()).__name__ == "SpikingModel"
    finally:
        env.close()


@pytest.mark.parametrize(
    ("agent", "said"), [("lif_distilled", "teacher"), ("mlp_history_ppo", "history"), ("lif_pp", "lif_ppo")]
)
def test_agents_that_its_command_cannot_train_are_refused(agent, said):
    from mjlab.tasks.registry import load_rl_cfg

    with pytest.raises(UserError, match=said):
        make_agent_cfg(agent, load_rl_cfg(CARTPOLE))


@pytest.mark.slow
def test_the_command_itself_finds_our_agents_by_the_entry_point(tmp_path):
    train = Path(sys.executable).with_name("train")
    flags = ["--env.scene.num-envs", "16", "--agent.max-iterations", "1", "--agent.logger", "tensorboard"]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "MJLAB_WARP_QUIET": "1"}
    command = [train, f"{CARTPOLE}-lif_stateful_ppo", *flags, "--log-root", str(tmp_path)]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    (folder,) = tmp_path.glob("cartpole/*")
    assert (folder / "model_0.pt").is_file() and list(folder.glob("*.onnx"))
    command[1] = f"{CARTPOLE}-lif_distilled"
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2 and "teacher" in result.stderr and "Traceback" not in result.stderr
