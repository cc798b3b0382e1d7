"""Trained policies as torch modules: they act as in playback, in bare environments, and keep their state and gradients."""

import pytest
import torch

import spiky_rl
from spiky_rl.cli.export import export
from spiky_rl.cli.train import train
from spiky_rl.config.options import UserError
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.run.policies import list_policies

gymnasium = pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
SMALL = ["--task", "CartPole-v1", "--device", "cpu", "--num_envs", "32", "--max_iterations", "1"]


def train_once(agent, folder, *options):
    """Train for an iteration; return the run's folder."""
    where = ["--agent", agent, "--log_root", str(folder), "--no-choose_best"]
    assert train([*SMALL, *where, *options]) == 0
    (run,) = folder.glob("rsl_rl/*/*")
    return run


@pytest.mark.parametrize(
    "name", ["CartPole-v1.lif_ppo", "CartPole-v1.mlp_matched_ppo", "InvertedPendulum-v5.lif_ppo"]
)
@torch.no_grad()
def test_a_shipped_policy_masters_the_bare_environment(name):
    task = name.partition(".")[0]
    if task.endswith("v5"):
        pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    env = gymnasium.make(task)
    policy = spiky_rl.load_policy(name, env.action_space)
    observation, _ = env.reset(seed=11)
    total, has_ended = 0.0, False
    while not has_ended:
        action = policy(torch.as_tensor(observation).float().unsqueeze(0))[0].numpy()
        assert env.action_space.contains(action if action.shape else action.item())
        observation, reward, *ends, _ = env.step(action)
        total, has_ended = total + reward, any(ends)
    assert total == env.spec.reward_threshold or total == env.spec.max_episode_steps


def test_every_shipped_policy_is_a_module_with_the_sizes_of_its_task():
    sizes = {}
    for policy in list_policies():
        module = spiky_rl.load_policy(policy.name)
        (width,) = module.inputs
        sizes[policy.task] = width, module(torch.zeros(3, width)).shape[1]
        assert not module.training and (module.network is None) == policy.agent.startswith("mlp")
    assert sizes["Isaac-Ant"] == (60, 8) and sizes["Isaac-Cartpole"] == (4, 1)
    assert sizes["CartPole-v1"] == (4, 2) and sizes["InvertedPendulum-v5"] == (4, 1)


def test_a_stateful_policy_acts_as_its_exported_file_and_has_spikes_and_gradients(tmp_path):
    normalized = ["agent.actor.obs_normalization=true"]
    run = train_once("lif_stateful_ppo", tmp_path, *normalized)
    arguments = ["--task", "CartPole-v1", "--agent", "lif_stateful_ppo", "--device", "cpu", *normalized]
    out = ["--checkpoint", str(run), "--to", "torchscript", "--out", str(tmp_path / "exported")]
    assert export([*arguments, *out]) == 0
    script = torch.jit.load(tmp_path / "exported" / "policy.pt")
    policy = spiky_rl.load_policy(run)
    x = 2.0 * torch.randn(20, 1, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = torch.stack([script(step) for step in x])
        at_once, _ = policy(x, None)
        state, actions = None, []
        for step in x:
            action, state = policy(step, state)
            actions.append(action)
    assert torch.equal(at_once, torch.stack(actions))
    torch.testing.assert_close(at_once, exported)
    assert len({*at_once[:, 0, 0].tolist()}) > 10, "the state matters"

    record = ForwardRecord()
    policy.network(policy.normalizer(x), policy.network.zero_state(1, x[0]), record=record)
    assert 0.0 < record.layer_spikes[0].mean() < 1.0
    policy(x.requires_grad_()).square().sum().backward()
    assert x.grad.abs().max() > 0.0 and all(p.grad is not None for p in policy.body.parameters())


def test_what_is_no_policy_of_vectors_is_refused_by_name(tmp_path):
    with pytest.raises(
        UserError, match=r"source: 'CartPole-v1\.lif_pp' given; .* mean 'CartPole-v1\.lif_ppo'"
    ):
        spiky_rl.load_policy("CartPole-v1.lif_pp")
    with pytest.raises(UserError, match=r"action_space: MultiDiscrete.* given; allowed: Discrete, or Box"):
        spiky_rl.load_policy("CartPole-v1.lif_ppo", gymnasium.spaces.MultiDiscrete([2, 2]))
    run = train_once("gru_ppo", tmp_path)
    with pytest.raises(UserError, match="agent.actor.class_name: RNNModel given; allowed: spiking networks and MLPs"):
        spiky_rl.load_policy(run)
