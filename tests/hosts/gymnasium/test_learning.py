"""PPO on Gymnasium's tasks: values at time limits, discrete actions, and every agent."""

import contextlib
import dataclasses
import itertools
import json

import pytest
import torch
from torch.distributions import OneHotCategorical, kl_divergence

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import read_agent, read_algorithm
from spiky_rl.learners.common.checkpoint_names import CheckpointError
from spiky_rl.learners.common.reward_scaling import RewardScaler
from spiky_rl.learners.rsl_rl.categorical import CategoricalDistribution
from spiky_rl.run.run_plan import TrainOptions
from spiky_rl.run.simulate import open_env
from spiky_rl.run.train import LOAD_WITHOUT_OPTIMIZER, TrainingRun, create_training_run
from tests.hosts.gymnasium.planned import make_runner, plan_of
from tests.hosts.gymnasium.scripted import SCRIPTS

SCRIPT = f"{SCRIPTS}Script-v0"
AGENTS = [
    name
    for name in registry.list_names("agents")
    if "frames" not in read_agent(name)[1]
    and not name.endswith("classifier")
    and read_algorithm(name) == "ppo"  # test_replay.py has the others
]
SLOW_AGENTS = [pytest.param(name, marks=pytest.mark.slow) for name in ("mlp_ppo", "gru_ppo")]
SMALL = ["agent.num_steps_per_env=8", "agent.algorithm.num_learning_epochs=1"]


def scale_rewards(scales):
    return f"agent.algorithm.reward_normalization={str(scales).lower()}"


@pytest.mark.parametrize(
    "agent", ["lif_ppo", *SLOW_AGENTS, pytest.param("lif_reservoir_ppo", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("scales", [False, True])
def test_a_time_limit_adds_the_value_of_the_final_observation(agent, scales):
    """The script of 5 steps is only ever cut; the reward of step n is n."""
    plan = plan_of(SCRIPT, agent, *SMALL, scale_rewards(scales))
    with open_env(plan) as env, torch.inference_mode():
        alg = make_runner(plan, env).alg
        scaler = RewardScaler(32, alg.gamma)
        obs = env.get_observations()
        for step in range(8):
            obs, rewards, dones, extras = env.step(alg.act(obs))
            wanted = scaler(rewards, torch.zeros(32, dtype=bool), dones > 0) if scales else rewards
            if step == 4:
                values = alg._compute_values(extras["final_observations"])
                again = alg._compute_values(extras["final_observations"])
                assert torch.equal(values, again), "the critic's state does not advance"
                assert not torch.allclose(values, alg.transition.values.squeeze(-1))
                wanted = wanted + alg.gamma * values
            alg.process_env_step(obs, rewards, dones, extras)
            torch.testing.assert_close(alg.storage.rewards[step].squeeze(-1), wanted)


@pytest.mark.parametrize("library", ["rsl_rl", "skrl"])
def test_an_end_by_the_task_adds_no_value(library):
    """The script ends at step 3, before its time limit."""
    plan = plan_of(SCRIPT, "lif_ppo", *SMALL, scale_rewards(False), "env.ends=3", library=library)
    with open_env(plan) as env:
        runner = make_runner(plan, env)
        if library == "skrl":
            runner.alg.post_interaction = lambda **_: None  # no update, which would reset the rollout
            runner._start()
            runner._run_iteration(0, runner.environment.reset()[0])
            rewards = runner.alg.memory.get_tensor_by_name("rewards")
        else:
            with torch.inference_mode():
                obs = env.get_observations()
                for _ in range(8):
                    obs, reward, dones, extras = env.step(runner.alg.act(obs))
                    runner.alg.process_env_step(obs, reward, dones, extras)
            rewards = runner.alg.storage.rewards
    assert rewards.squeeze(-1).mean(1).tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


@pytest.mark.parametrize("library", ["rsl_rl", "skrl"])
@pytest.mark.parametrize("scales", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_training_is_resumed_with_the_same_scale_of_rewards(library, scales, tmp_path):
    def make_scaling_runner(scaling):
        plan = plan_of(SCRIPT, "lif_ppo", *SMALL, scale_rewards(scaling), num_envs=8, library=library)
        return make_runner(plan, envs.enter_context(open_env(plan)))

    path = str(tmp_path / "model_0.pt")
    with contextlib.ExitStack() as envs:
        runner = make_scaling_runner(scales)
        runner.save(path)
        make_scaling_runner(scales).load(path)
        for parts in (None, LOAD_WITHOUT_OPTIMIZER):
            with pytest.raises(CheckpointError, match="reward_normalization"):
                make_scaling_runner(not scales).load(path, parts)
        make_scaling_runner(not scales).load(path, {"actor": True})


def test_no_process_has_the_episodes_or_the_noise_of_another_run():
    episodes, noise = set(), set()
    for seed, rank in itertools.product(range(3), range(2)):
        plan = dataclasses.replace(plan_of("Pendulum-v1", "lif_ppo", num_envs=1), seed=seed, rank=rank)
        with open_env(plan) as env:
            TrainingRun(plan, TrainOptions())._make_runner(env)
            episodes.add(tuple(env.get_observations()["policy"][0].tolist()))
            noise.add(torch.rand(()).item())
        assert rank or plan.process_seed == seed
    assert len(episodes) == len(noise) == 6


@pytest.mark.parametrize("agent", ["lif_ppo", "lif_td3"])
def test_a_resumed_training_has_other_episodes_than_its_beginning(agent, tmp_path):
    plan = plan_of("Pendulum-v1", agent, "agent.num_steps_per_env=8", num_envs=4)
    path = tmp_path / "model_0.pt"

    def begin(checkpoint=None):
        """Return a training's runner and its first observations."""
        env = envs.enter_context(open_env(plan))
        runner = TrainingRun(plan, TrainOptions(), checkpoint)._make_runner(env)
        return runner, env.get_observations()["policy"].clone()

    with contextlib.ExitStack() as envs:
        runner, first = begin()
        runner.save(str(path))
        _, unused = begin(path)
        assert torch.equal(unused, first), "nothing has been simulated yet"
        runner.learn(1)
        runner.save(str(path))
        (_, resumed), (_, again) = begin(path), begin(path)
        assert torch.equal(resumed, again)
        assert len({tuple(row) for row in torch.cat([first, resumed]).tolist()}) == 8


@pytest.mark.parametrize("agent", ["lif_ppo", *SLOW_AGENTS])
@pytest.mark.parametrize("scales", [False, True])
def test_skrl_adds_the_value_of_the_final_observation(agent, scales):
    plan = plan_of(SCRIPT, agent, *SMALL, scale_rewards(scales), library="skrl")
    with open_env(plan) as env:
        runner = make_runner(plan, env)
        alg, scaler, added = runner.alg, RewardScaler(32, 0.99), {}
        alg.post_interaction = lambda **_: None  # no update, which would reset the rollout
        values = alg._compute_next_values
        alg._compute_next_values = lambda step: added.setdefault(step["next_observations"], values(step))
        runner._start()
        runner._run_iteration(0, runner.environment.reset()[0])
        rollout = {
            name: alg.memory.get_tensor_by_name(name).squeeze(-1)
            for name in ("rewards", "terminated", "truncated")
        }
    ((final, value),) = added.items()
    torch.testing.assert_close(final.squeeze(), final.squeeze().round() + 0.05, atol=0.051, rtol=0.0)
    assert (final > 4.9).all(), "the observation after step 5"
    for step in range(8):
        reward = torch.full((32,), step % 5 + 1.0)
        if scales:
            cut = torch.full((32,), step == 4)
            reward = scaler(reward, torch.zeros(32, dtype=bool), cut)
        wanted = reward + 0.99 * value.squeeze(-1) if step == 4 else reward
        torch.testing.assert_close(rollout["rewards"][step], wanted)
        assert (rollout["terminated"][step] == (step == 4)).all()
    assert not rollout["truncated"].any()


@pytest.mark.parametrize(
    ("task", "agent"),
    [
        ("CartPole-v1", "lif_ppo"),
        ("Pendulum-v1", "lif_stateful_ppo"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("CartPole-v1", "lif_stateful_ppo"),
                ("CartPole-v1", "gru_ppo"),
                ("Pendulum-v1", "lif_ppo"),
                ("Pendulum-v1", "gru_ppo"),
            )
        ),
    ],
)
def test_skrl_trains(command, agent, task, tmp_path):
    result = train_once(command, agent, task, tmp_path, "--rl_library", "skrl")
    assert (result["library"], result["outcome"]) == ("skrl", "finished")


def test_the_runner_refuses_minibatches_without_two_environments():
    """Without the guard the value loss is not a number after the first update."""
    plan = plan_of(SCRIPT, "lif_stateful_ppo", num_envs=8)
    with open_env(plan) as env:
        runner = make_runner(plan, env)
        with pytest.raises(UserError, match="num_mini_batches: 16.*at most 4"):
            runner.learn(1)


def test_skrls_minibatches_of_one_sample_are_refused_before_a_simulator_starts():
    """Without the check the first loss is not a number: Gymnasium's PPO normalises observations, in 16 minibatches."""
    plan = plan_of(SCRIPT, "lif_ppo", *SMALL, num_envs=2, library="skrl")
    with pytest.raises(UserError, match=r"num_mini_batches: 16 .* 16 samples .* at most 8,"):
        create_training_run(plan, TrainOptions())


def test_advantages_of_one_sample_are_not_normalised_per_minibatch():
    """Without the check the first loss is not a number."""
    per_minibatch = "agent.algorithm.normalize_advantage_per_mini_batch=true"
    plan = plan_of(SCRIPT, "lif_ppo", *SMALL, per_minibatch, num_envs=2)
    with pytest.raises(UserError, match=r"num_mini_batches: 16 .* 16 samples .* at most 8,"):
        create_training_run(plan, TrainOptions())
    create_training_run(plan_of(SCRIPT, "lif_ppo", *SMALL, per_minibatch, num_envs=4), TrainOptions())


def test_a_categorical_distribution_is_torchs():
    ours, logits = CategoricalDistribution(4), torch.randn(6, 4)
    theirs, other = OneHotCategorical(logits=logits), OneHotCategorical(logits=torch.randn(6, 4))
    ours.update(logits)
    actions = ours.sample()
    assert actions.shape == (6, 4) and torch.equal(actions.sum(-1), torch.ones(6))
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy, theirs.entropy())
    torch.testing.assert_close(ours.std, theirs.variance.sqrt())
    before = ours.params
    ours.update(other.logits)
    torch.testing.assert_close(ours.kl_divergence(before, ours.params), kl_divergence(theirs, other))
    assert torch.equal(ours.deterministic_output(logits), ours.as_deterministic_output_module()(logits))
    torch.manual_seed(0)
    ours.update(logits[:1].expand(20_000, 4))
    torch.testing.assert_close(ours.sample().mean(0), theirs.probs[0], atol=0.015, rtol=0.0)


def test_several_choices_are_independent_ones_of_torch():
    sizes, ours, logits = [2, 3], CategoricalDistribution(5, [2, 3]), torch.randn(6, 5)
    theirs = [OneHotCategorical(logits=part) for part in logits.split(sizes, -1)]
    ours.update(logits)
    actions, before = ours.sample(), ours.params
    parts = actions.split(sizes, -1)
    assert all(torch.equal(part.sum(-1), torch.ones(6)) for part in parts)
    torch.testing.assert_close(
        ours.log_prob(actions), sum(d.log_prob(part) for d, part in zip(theirs, parts, strict=True))
    )
    torch.testing.assert_close(ours.entropy, sum(d.entropy() for d in theirs))
    torch.testing.assert_close(ours.std, torch.cat([d.variance.sqrt() for d in theirs], -1))
    ours.update(logits.flip(0))
    flipped = [OneHotCategorical(logits=part.flip(0)) for part in logits.split(sizes, -1)]
    torch.testing.assert_close(
        ours.kl_divergence(before, ours.params), sum(map(kl_divergence, theirs, flipped))
    )


def train_once(command, agent, task, tmp_path, *options):
    argv = ["--task", task, "--agent", agent, "--device", "cpu", "--log_root", tmp_path, *options]
    code, _, stderr = command("train", *argv, "--max_iterations", 1, "--num_envs", 32, *SMALL)
    assert code == 0, stderr
    (result,) = tmp_path.glob("*/*/*/result.json")
    return json.loads(result.read_text())


def needs_images_or_teacher(agent: str) -> bool:
    content = read_agent(agent)[1]
    connections = (content.get("network") or {}).get("connection")
    return "distillation_cfg" in content.get("algorithm", {}) or isinstance(connections, list)


@pytest.mark.parametrize("agent", ["lif_rstdp", "mlp_history_ppo"])
def test_agents_train(command, agent, tmp_path):
    result = train_once(command, agent, "Pendulum-v1", tmp_path)
    assert (result["task"], result["outcome"], result["physics"]) == ("Pendulum-v1", "finished", "gymnasium")
    assert {"gymnasium", "mujoco"} <= set(result["versions"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1", "Hopper-v5"])
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_on_every_kind_of_task(command, agent, task, tmp_path):
    if needs_images_or_teacher(agent):
        pytest.skip("it needs images or a teacher")
    assert train_once(command, agent, task, tmp_path)["outcome"] == "finished"


@pytest.mark.parametrize("agent", [pytest.param("mlp_ppo", marks=pytest.mark.slow), "lif_conv_ppo"])
def test_images_train_convolutional_networks(command, agent, tmp_path):
    layers = "agent.network.connection=[{name: convolutional, kernel: 3, padding: 1}, {name: linear}]"
    options = [] if agent == "mlp_ppo" else [layers, "agent.network.layers=[4, 8]"]
    result = train_once(command, agent, f"{SCRIPTS}Picture-v0", tmp_path, *options)
    assert result["outcome"] == "finished"
