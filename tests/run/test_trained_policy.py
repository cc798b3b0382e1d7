"""Trained policies as torch modules: they act as in playback, in bare environments, and keep their state and gradients."""

import shutil

import numpy as np
import pytest
import torch
from tensordict import TensorDict

import spiky_rl
from spiky_rl.cli.export import export
from spiky_rl.cli.train import train
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.kernels.dispatch import REFERENCE
from spiky_rl.learners.common.inference_policy import MAX_OBSERVATION
from spiky_rl.learners.rsl_rl.actor import build_actor, load_actor
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.run.policies import list_policies
from spiky_rl.run.prepare import merge_agent_on_task
from spiky_rl.run.trained_policy import PolicyModule
from tests.hosts.gymnasium import scripted

gymnasium = pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
SMALL = ["--task", "CartPole-v1", "--device", "cpu", "--num_envs", "32", "--max_iterations", "1"]
SMALL += ["agent.algorithm.num_learning_epochs=1"]


def train_once(agent, folder, *options):
    """Train for an iteration; return the run's folder."""
    where = ["--agent", agent, "--log_root", str(folder), "--no-choose_best"]
    assert train([*SMALL, *where, *options]) == 0
    (run,) = folder.glob("*/*/*")
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


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        (gymnasium.spaces.Box(0, 3, (1,), np.int32), [0, 0, 1, 2, 2, 3]),
        (gymnasium.spaces.Box(0, 1, (1,), bool), [False, False, False, False, True, True]),
    ],
)
def test_actions_of_whole_numbers_are_rounded_as_in_the_environment(space, wanted):
    policy = spiky_rl.load_policy("InvertedPendulum-v5.mlp_matched_ppo", space)
    actions = policy.to_actions[-1](torch.tensor([[-9.0], [-0.7], [-0.1], [0.0], [0.1], [9.0]]))
    assert actions[:, 0].tolist() == wanted and all(space.contains(action) for action in actions.numpy())


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
    network = policy.network
    assert network is not None
    x = 2.0 * torch.randn(20, 1, 4, generator=torch.Generator().manual_seed(0))

    def act_step_by_step():
        state, actions = None, []
        for step in x:
            action, state = policy(step, state)
            actions.append(action)
        return torch.stack(actions)

    with torch.no_grad():
        at_once, _ = policy(x, None)
        assert torch.equal(at_once, act_step_by_step())
        assert len({*at_once[:, 0, 0].tolist()}) > 10, "the state matters"
        network.set_backend(REFERENCE)  # as in the file
        assert torch.equal(act_step_by_step(), torch.stack([script(step) for step in x]))

    record = ForwardRecord()
    network(policy.normalizer(x), network.zero_state(1, x[0]), record=record)
    assert 0.0 < record.layer_spikes[0].mean() < 1.0
    policy(x.requires_grad_()).square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0.0
    assert all(parameter.grad is not None for parameter in network.parameters())


NORMALIZED = ["agent.actor.obs_normalization=true", "agent.critic.obs_normalization=true"]


def train_replay(agent, folder, *overrides):
    """Train an agent of skrl on Pendulum-v1 for a few updates; return the arguments of its task and the run's folder."""
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    task = ["--task", "Pendulum-v1", "--agent", agent, "--device", "cpu"]
    small = [
        "--budget",
        "env_steps=128",
        "agent.algorithm.batch_size=8",
        "agent.algorithm.learning_starts=64",
    ]
    assert train([*task, "--log_root", str(folder), "--no-choose_best", *small, *overrides]) == 0
    (run,) = folder.glob("skrl/*/*")
    return task, run


@pytest.mark.parametrize(
    "agent",
    [
        "lif_td3",
        pytest.param("lif_sac", marks=pytest.mark.slow),
        pytest.param("mlp_td3", marks=pytest.mark.slow),
    ],
)
def test_an_actor_of_td3_or_sac_acts_as_its_exported_file(agent, tmp_path):
    task, run = train_replay(agent, tmp_path, *NORMALIZED)
    out = ["--checkpoint", str(run), "--to", "torchscript", "--out", str(tmp_path / "exported")]
    assert export([*task, *out, *NORMALIZED]) == 0
    policy = spiky_rl.load_policy(run, gymnasium.make("Pendulum-v1").action_space)
    if policy.network is not None:
        policy.network.set_backend(REFERENCE)  # as in the file
    x = 2.0 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    actions = policy(x)
    assert torch.equal(actions, torch.jit.load(tmp_path / "exported" / "policy.pt")(x))
    assert actions.abs().max() <= 2.0 and actions.std() > 0.01


def test_the_bound_of_an_agents_actions_is_kept(tmp_path):
    run = train_once("mlp_ppo", tmp_path, "--task", "Pendulum-v1", "agent.clip_actions=0.25")
    policy = spiky_rl.load_policy(run, gymnasium.make("Pendulum-v1").action_space)
    with torch.no_grad():
        actions = policy(100.0 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    assert actions.abs().max() == 0.5, "a quarter of the task's 2"


def test_a_run_folder_is_loaded_past_a_damaged_checkpoint(tmp_path):
    (policy,) = [policy for policy in list_policies() if policy.name == "CartPole-v1.lif_ppo"]
    (tmp_path / "model_0.pt").write_bytes(b"half a checkpoint")
    shutil.copyfile(policy.weights, tmp_path / "model_1.pt")
    assert spiky_rl.load_policy(tmp_path).inputs == (4,)
    shutil.copyfile(tmp_path / "model_0.pt", tmp_path / "model_1.pt")
    with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
        spiky_rl.load_policy(tmp_path)


def test_a_policy_of_several_choices_gives_one_index_for_each(tmp_path):
    run = train_once("lif_ppo", tmp_path, "--task", f"{scripted.__name__}:Scripted/Choices-v0")
    space, x = gymnasium.spaces.MultiDiscrete([2, 3], start=[0, 5]), torch.randn(7, 1)
    first, second = spiky_rl.load_policy(run)(x).split([2, 3], -1)
    wanted = torch.stack([first.argmax(-1), 5 + second.argmax(-1)], -1)
    assert torch.equal(spiky_rl.load_policy(run, space)(x), wanted)
    with pytest.raises(UserError, match=r"action_space: .* not the policy's; allowed: 2, 3 choices"):
        spiky_rl.load_policy(run, gymnasium.spaces.MultiDiscrete([3, 2]))


@pytest.mark.parametrize(
    ("name", "space", "allowed"),
    [
        ("CartPole-v1.lif_ppo", gymnasium.spaces.Discrete(3), r"Discrete\(2\)"),
        ("CartPole-v1.lif_ppo", gymnasium.spaces.MultiDiscrete([1, 1]), r"Discrete\(2\)"),
        ("CartPole-v1.lif_ppo", gymnasium.spaces.Box(-1.0, 1.0, (2,)), r"Discrete\(2\)"),
        ("CartPole-v1.mlp_matched_ppo", gymnasium.spaces.Box(-1.0, 1.0, (4,)), r"Discrete\(2\)"),
        ("InvertedPendulum-v5.lif_ppo", gymnasium.spaces.Discrete(1), r"Box of shape \(1,\)"),
        ("InvertedPendulum-v5.lif_ppo", gymnasium.spaces.Box(-1.0, 1.0, (3,)), r"Box of shape \(1,\)"),
    ],
)
def test_an_action_space_of_another_task_is_refused(name, space, allowed):
    with pytest.raises(UserError, match=f"action_space: .* not the policy's; allowed: {allowed}"):
        spiky_rl.load_policy(name, space)


@torch.no_grad()
def test_observations_of_any_number_type_are_taken_and_arrays_refused_by_name():
    policy = spiky_rl.load_policy("InvertedPendulum-v5.lif_ppo")
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy(x), policy(x.float()))
    with pytest.raises(UserError, match="x: ndarray given; allowed: a tensor"):
        policy(x.numpy())


def make_actor(agent, *overrides, task="CartPole-v1"):
    """The specification of an agent on a task, and its untrained actor with four observations and two outputs."""
    _, spec = merge_agent_on_task(agent, task, None, list(overrides))
    observations = TensorDict({"policy": torch.zeros(1, 4)}, batch_size=[1])
    return spec, build_actor(spec, observations, 2, ["policy"])


def make_actor_and_policy(agent, *overrides):
    """An untrained actor of an agent on CartPole-v1, and the policy of its copy."""
    spec, model = make_actor(agent, *overrides)
    return model.eval(), PolicyModule(load_actor(spec, model.state_dict(), (4, 2)), spec, None).eval()


def make_policy(agent, *overrides):
    return make_actor_and_policy(agent, *overrides)[1]


class Products(Encoder):
    """Products of all pairs of observations."""

    def __init__(self, inputs, steps):
        super().__init__()
        self.rows, self.columns = torch.triu_indices(inputs, inputs)
        self.width = len(self.rows)

    def forward(self, x):
        return (x[..., self.rows] * x[..., self.columns]).unsqueeze(1)


class Angles(Encoder):
    """The angle of every pair (sin, cos), so that the number of observations is even."""

    def __init__(self, inputs, steps):
        super().__init__()
        self.width = inputs // 2

    def forward(self, x):
        return torch.atan2(x[..., 0::2], x[..., 1::2]).unsqueeze(1)


class Last(Encoder):
    """The last observation of a robot with three or four."""

    def __init__(self, inputs, steps):
        super().__init__()
        assert inputs in (3, 4)
        self.width = 1

    def forward(self, x):
        return x[..., -1:].unsqueeze(1)


MAP = "agent.network.connection={name: convolutional, map: [1,2,2], kernel: 1}"


@torch.no_grad()
@pytest.mark.parametrize(
    "overrides",
    [
        *([f"agent.network.encoder={__name__}:{cls.__name__}"] for cls in (Products, Angles, Last)),
        ["agent.network.layers=[2]", "agent.network.decoder=population_vector"],
        ["agent.network.layers=[4]", MAP],
    ],
    ids=str,
)
def test_a_policy_is_loaded_whose_network_is_built_for_few_sizes_only(overrides):
    policy = make_policy("lif_ppo", *overrides)
    assert policy.inputs == (4,) and policy(torch.zeros(3, 4)).shape == (3, 2)


@torch.no_grad()
def test_a_policy_with_the_network_of_a_nir_file_is_loaded(tmp_path):
    pytest.importorskip("nir", reason="the nir extra is not installed")
    _, model = make_actor("lif_ppo", "agent.network.neuron.reset=zero", task="Pendulum-v1")
    registry.configure("targets", "nir", "to").build().write(model, tmp_path)
    policy = make_policy("lif_ppo", f"agent.network={{name: nir, file: {tmp_path / 'policy.nir'}}}")
    assert policy.inputs == (4,) and policy(torch.zeros(3, 4)).shape == (3, 2)


def test_a_checkpoint_has_the_sizes_of_its_actor(tmp_path):
    code = f"{__name__}:Last"
    run = train_once("lif_ppo", tmp_path, f"agent.network.encoder={code}")
    assert spiky_rl.load_policy(run, code=[code]).inputs == (4,)


def test_a_checkpoint_of_skrl_has_the_sizes_of_its_actor(tmp_path):
    code = f"{__name__}:Last"
    _, run = train_replay("lif_td3", tmp_path, f"agent.network.encoder={code}")
    assert spiky_rl.load_policy(run, code=[code]).inputs == (3,)


def test_sizes_that_do_not_follow_from_the_shapes_of_weights_are_not_guessed():
    encoder = f"agent.network.encoder={__name__}:Products"
    spec, model = make_actor("lif_ppo", encoder, "agent.actor.obs_normalization=true")
    assert load_actor(spec, model.state_dict()).obs_dim == 4, "as the normalisation has them"
    spec, model = make_actor("lif_ppo", encoder, "agent.actor.obs_normalization=false")
    with pytest.raises(ValueError, match="do not follow from the shapes of its weights"):
        load_actor(spec, model.state_dict())


DELTA = "agent.network.encoder={name: delta, threshold: 0.05}"


@torch.no_grad()
@pytest.mark.parametrize("agent", [["sigma_delta_ppo"], ["lif_stateful_ppo", DELTA]], ids=str)
def test_a_stateful_policy_takes_observations_of_double_precision(agent):
    policy = make_policy(*agent)
    x = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy(x), policy(x.float()))
    action, state = policy(x[0], None)
    same_action, same_state = policy(x[0].float(), None)
    assert torch.equal(action, same_action) and all(map(torch.equal, state, same_state))
    assert torch.equal(policy(x[1], state)[0], policy(x[1].float(), state)[0])


@torch.no_grad()
def test_an_omitted_state_is_a_state_of_zero_for_an_encoder_that_starts_with_its_first_observation():
    policy = make_policy("lif_stateful_ppo", f"{DELTA[:-1]}, start: first}}")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy(x), policy(x, None)[0])


@torch.no_grad()
def test_a_state_that_is_not_finite_is_reset_as_in_play():
    torch.manual_seed(0)
    actor, policy = make_actor_and_policy("izhikevich_ppo", "agent.network.stateful=true")
    x = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0))
    x[1] = torch.inf
    network, state = policy.network, None
    assert network is not None
    for i, step in enumerate(x):
        before = state
        action, state = policy(step, state)
        assert torch.equal(action, actor(TensorDict({"policy": step}, batch_size=[1])))
        assert all(part.isfinite().all() for part in state)
        if i == 1:
            _, bare = network(torch.full((1, 1, 4), MAX_OBSERVATION), before)
            assert not all(part.isfinite().all() for part in bare), "the network itself leaves such a state"


def test_a_folder_without_checkpoints_is_refused_as_source(tmp_path):
    with pytest.raises(UserError, match="^source: '.*' has no checkpoint; allowed: "):
        spiky_rl.load_policy(tmp_path)
    with pytest.raises(UserError, match="^source: '.*none' given; allowed: "):
        spiky_rl.load_policy(tmp_path / "none")
    with pytest.raises(UserError, match="^source: int given; allowed: "):
        spiky_rl.load_policy(3)
    with pytest.raises(UserError, match=r"^code: 'x.py:Y' given; allowed: a list"):
        spiky_rl.load_policy("CartPole-v1.lif_ppo", code="x.py:Y")


@pytest.mark.slow
def test_what_is_no_policy_of_vectors_is_refused_by_name(tmp_path):
    with pytest.raises(
        UserError, match=r"source: 'CartPole-v1\.lif_pp' given; .* mean 'CartPole-v1\.lif_ppo'"
    ):
        spiky_rl.load_policy("CartPole-v1.lif_pp")
    with pytest.raises(UserError, match=r"action_space: Text.* given; allowed: Discrete, .* or Box"):
        spiky_rl.load_policy("CartPole-v1.lif_ppo", gymnasium.spaces.Text(3))
    run = train_once("gru_ppo", tmp_path / "rsl_rl")
    with pytest.raises(
        UserError, match="as a module: .*class_name: RNNModel given; allowed: spiking networks"
    ):
        spiky_rl.load_policy(run)
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    run = train_once("mlp_ppo", tmp_path / "skrl", "--rl_library", "skrl")
    with pytest.raises(UserError, match="cannot be loaded as a module: not available for PPO of skrl"):
        spiky_rl.load_policy(run)
