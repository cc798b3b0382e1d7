"""TD3 and SAC: replayed transitions, target networks, bounded actors, checkpoints, and all that replay refuses."""

import json
import math
import shutil
import time

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")
import gymnasium
import torch
from skrl.models.torch import Model
from tensordict import TensorDict
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from spiky_rl.cli.publish import find_last_checkpoint
from spiky_rl.config import memory_check
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import NOISE_BOUNDS, SpecError, read_algorithm, resolve_agent
from spiky_rl.learners import select_learner
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.learners.skrl.activity import compute_activity
from spiky_rl.learners.skrl.config import to_agent_layout
from spiky_rl.learners.skrl.learner import LEARNER
from spiky_rl.learners.skrl.replay_models import ActionValue, ProxyActor
from spiky_rl.learners.skrl.replay_runner import ReplayRunner
from spiky_rl.metrics.meter import CostMeter
from tests.hosts.point_env import LIF, PointEnv
from tests.hosts.skrl_case import RAW
from tests.hosts.skrl_case import runner as ppo_runner

ISAAC = {
    "num_steps_per_env": 24,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {"class_name": "MLPModel", "hidden_dims": [8], "activation": "elu"},
    "critic": {"class_name": "MLPModel", "hidden_dims": [8], "activation": "elu"},
    "algorithm": {
        "class_name": "PPO",
        "num_learning_epochs": 5,
        "schedule": "adaptive",
        "learning_rate": 1e-2,
    },
}
"""Settings of PPO, as a host registers them."""
SMALL = (
    "agent.critic.hidden_dims=[16]", "agent.algorithm.batch_size=16", "agent.algorithm.replay_size=400",
    "agent.algorithm.learning_starts=32", "agent.algorithm.random_steps=16", "agent.num_steps_per_env=10",
    "agent.algorithm.updates_per_step=0.25",
)  # fmt: skip
NETWORK = {"name": "feedforward", "layers": [12, 12], **LIF}
LEARNED = {**NETWORK, "encoder": {"name": "population", "mode": "poisson", "fields": 3}}
LEARNED["neuron"] = {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": ["tau"]}


class CutEnv(PointEnv):
    """The point mass, whose every episode a time limit of five steps cuts, or in every other environment ends; with true successors."""

    has_final_observations = True

    def step(self, actions):
        self.limit = torch.full_like(self.limit, 5)
        position, velocity = self.state.split(2, -1)
        velocity = 0.9 * velocity + 0.1 * actions
        final = torch.cat([position + 0.1 * velocity, velocity], -1)
        obs, rewards, dones, extras = super().step(actions)
        even = torch.arange(self.num_envs) % 2 == 0
        extras["time_outs"] = (dones > 0) & even
        if bool((dones > 0).any()):
            extras["final_observations"] = TensorDict({"policy": final}, [self.num_envs])
        return obs, rewards, dones, extras


def specification(agent="lif_td3", *overrides, network=None, small=SMALL):
    lines = [*small, *overrides]
    if network is not None or agent.startswith("lif"):
        lines.append(f"agent.network={json.dumps(network or NETWORK)}")
    return resolve_agent(agent, "Isaac-Point", ISAAC, lines)


def runner(
    agent="lif_td3", *overrides, network=None, env=None, seed=0, folder=None, identity=None, pictures=None
) -> ReplayRunner:
    torch.manual_seed(seed)
    config = LEARNER.make_runner_cfg(specification(agent, *overrides, network=network))
    where = None if folder is None else str(folder)
    run = ReplayRunner(env or CutEnv(4), config, where, identity=identity, picture_interval=pictures or 1)
    if pictures is None:  # they take longer than the training
        run.draws_figures = lambda index: False
    return run


@pytest.mark.parametrize("agent", ["lif_td3", "lif_sac"])
def test_a_spiking_actor_is_compared_with_an_ann_of_its_own_layers(agent):
    run = runner(agent)
    seen = compute_activity(run.policy, torch.zeros(1, run.num_observations), None, None)
    assert seen.ann_operations == seen.cost.equal_ann.dense_operations
    assert run.get_exportable_policy().ann_operations == seen.ann_operations


def weights(run):
    return {
        f"{name}.{key}": value.clone()
        for name, model in run.alg.models.items()
        for key, value in model.state_dict().items()
    }


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestTransitions:
    def test_an_ended_episodes_successor_is_its_own_and_only_terminations_end_the_return(self):
        run = runner("mlp_td3", "agent.actor.hidden_dims=[8]")
        run.learn(1)
        stored = {name: run.alg.memory.get_tensor_by_name(name)[:10] for name in run.alg.memory.tensors}
        position, velocity = stored["observations"].split(2, -1)
        velocity = 0.9 * velocity + 0.1 * stored["actions"]
        true = torch.cat([position + 0.1 * velocity, velocity], -1)
        torch.testing.assert_close(stored["next_observations"], true)
        ends = torch.zeros(10, 4, dtype=torch.bool)
        ends[[4, 9]] = True
        assert torch.equal(stored["terminated"].squeeze(-1), ends & (torch.arange(4) % 2 == 1))
        assert not torch.allclose(stored["observations"][5], true[4]), "another episode has begun"

    def test_without_final_observations_the_latest_ones_are_stored_and_that_is_said(self, caplog):
        caplog.set_level("INFO")
        run = runner("mlp_td3", "agent.actor.hidden_dims=[8]", env=PointEnv(4))
        run.learn(2)
        stored = {name: run.alg.memory.get_tensor_by_name(name)[:20] for name in run.alg.memory.tensors}
        assert torch.equal(stored["next_observations"][:-1], stored["observations"][1:])
        assert any("final observations" in record.message for record in caplog.records)

    def test_outside_training_mode_nothing_is_stored_and_that_is_an_error(self):
        run = runner()
        run.learn(1)
        run.alg.enable_training_mode(False)
        with pytest.raises(RuntimeError, match="enable_training_mode"):
            run.alg.record_transition(rewards=torch.zeros(4, 1))

    def test_an_update_follows_as_many_environment_steps_as_wanted(self):
        run, calls = runner(), []
        update = run.alg.update

        def counted(**clock):
            calls.append(run.alg.cfg.gradient_steps)
            update(**clock)

        run.alg.update = counted
        run.learn(3)
        # 120 transitions, learning from the control step with the 32nd one on: 23 control steps of 4 environments
        assert sum(calls) == int(23 * 4 * 0.25)

    def test_rewards_are_scaled_in_the_replay_alone(self):
        run = runner("mlp_td3", "agent.actor.hidden_dims=[8]", "agent.algorithm.rewards_shaper_scale=0.5")
        run.learn(1)
        plain = runner("mlp_td3", "agent.actor.hidden_dims=[8]")
        plain.learn(1)
        scaled, raw = (r.alg.memory.get_tensor_by_name("rewards")[:10] for r in (run, plain))
        torch.testing.assert_close(scaled[:4], 0.5 * raw[:4])  # random actions
        assert run.progress.returns == pytest.approx(plain.progress.returns, rel=0.5)


class TestTargets:
    def test_weights_move_by_name_and_buffers_and_counts_are_copied(self):
        run = runner(network=LEARNED)
        actor, target = run.alg.policy, run.alg.target_policy
        assert any("tau" in name for name, _ in actor.named_parameters())
        assert [*actor.named_buffers()], "the noise of the encoder"
        with torch.no_grad():
            for weight in actor.parameters():
                weight.add_(torch.rand_like(weight))
        actor.network.count_update()
        before = {name: weight.clone() for name, weight in target.named_parameters()}
        target.update_parameters(actor, polyak=0.25)
        for name, weight in actor.named_parameters():
            torch.testing.assert_close(
                dict(target.named_parameters())[name].data, 0.75 * before[name] + 0.25 * weight.data
            )
        assert all(
            torch.equal(buffer, dict(target.named_buffers())[name]) for name, buffer in actor.named_buffers()
        )
        assert target.network.updates == actor.network.updates == 1

    def test_skrls_own_update_leaves_buffers_and_counts_out(self):
        """Without this our own would not be needed."""
        run = runner(network=LEARNED)
        actor, target = run.alg.policy, run.alg.target_policy
        actor.network.count_update()
        Model.update_parameters(target, actor, polyak=1.0)
        assert target.network.updates == 0
        assert not all(
            torch.equal(buffer, dict(target.named_buffers())[name]) for name, buffer in actor.named_buffers()
        )

    def test_targets_follow_in_training_and_are_not_trained(self):
        run = runner()
        first = weights(run)
        run.learn(3)
        last = weights(run)
        names = [name for name, _ in run.alg.target_policy.named_parameters()]
        for name in names:
            moved = (last[f"target_policy.{name}"] - first[f"target_policy.{name}"]).abs().max()
            led = (last[f"policy.{name}"] - first[f"policy.{name}"]).abs().max()
            assert moved < led or led == 0.0
        assert any(
            not torch.equal(first[f"target_policy.{name}"], last[f"target_policy.{name}"]) for name in names
        )
        assert not any(weight.requires_grad for weight in run.alg.target_policy.parameters())

    @pytest.mark.parametrize(
        "part",
        [{"sparsity": {"name": "rate", "weight": 1.0, "upper": 0.0}}, {"learning": "eventprop"}],
        ids=str,
    )
    def test_a_critics_penalty_trains_the_critic_and_not_the_actor(self, part):
        box = gymnasium.spaces.Box(-1.0, 1.0, (3,))
        torch.manual_seed(0)
        critic = ActionValue(
            hidden_dims=[8], network={**NETWORK, "layers": [8], **part}, observation_space=box, state_space=None,
            action_space=box, device="cpu",
        )  # fmt: skip
        observations, actions = torch.rand(2, 5, 3)
        actions.requires_grad_()
        for taken in (actions, actions.detach()):
            critic.zero_grad()
            values, _ = critic.act({"observations": observations, "taken_actions": taken})
            (0.0 * values.sum()).backward()
            is_trained = bool(critic.network.layers[0].connection.weight.grad.any())
            assert is_trained == (taken is not actions)
        assert not actions.grad.any(), "no value, and so nothing for the actor to learn"

    def test_a_proxy_learns_the_actors_actions(self):
        run = runner("lif_td3", "agent.algorithm.target=proxy", "agent.algorithm.proxy_learning_rate=1.0e-2")
        proxy, actor = run.alg.target_policy, run.alg.policy
        assert isinstance(proxy, ProxyActor) and proxy.network is None
        inputs = {"observations": torch.randn(256, 4)}

        def error():
            with torch.no_grad():
                return float((proxy.compute(inputs)[0] - actor.compute(inputs)[0]).square().mean())

        before = error()
        for _ in range(60):
            proxy.update_parameters(actor, polyak=0.005)
        assert error() < 0.3 * before
        run.learn(2)
        assert run.progress.iterations == 2


class TestActors:
    @pytest.mark.parametrize("agent", ["lif_td3", "lif_sac", "mlp_sac"])
    def test_actions_are_within_bounds_with_noise_without_and_at_random(self, agent):
        run = runner(agent, *(["agent.actor.hidden_dims=[8]"] if agent == "mlp_sac" else []))
        run.learn(4)
        stored = run.alg.memory.get_tensor_by_name("actions")[:40]
        assert stored.abs().max() <= 1.0 and stored.std() > 0.1
        with torch.no_grad():
            for weight in run.policy.parameters():
                weight.mul_(50.0)
            actions = run.get_inference_policy()(run.env.get_observations())
        assert actions.abs().max() <= 1.0

    def test_random_actions_are_uniform_and_follow_torchs_seed(self):
        actor, inputs = runner().policy, {"observations": torch.zeros(4000, 4)}
        torch.manual_seed(3)
        first, _ = actor.random_act(inputs)
        torch.manual_seed(3)
        assert torch.equal(first, actor.random_act(inputs)[0])
        assert first.mean().abs() < 0.03 and abs(float(first.std()) - 2.0 / math.sqrt(12.0)) < 0.02

    def test_exploration_noise_is_in_half_ranges(self):
        run = runner("lif_td3", "agent.algorithm.exploration_noise=0.2")
        run.learn(1)
        x = torch.zeros(4000, 4)
        with torch.no_grad():
            noisy, _ = run.alg.act(x, None, timestep=1000, timesteps=1000)
            plain, _ = run.policy.compute({"observations": x})
        assert float((noisy - plain).std()) == pytest.approx(0.2, rel=0.1)
        assert float(run.action_std.mean()) == pytest.approx(0.2)

    def test_exploration_noise_may_be_a_whole_number_and_the_clock_may_stand_still(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(time, "time", lambda: 1.0e9)
        run = runner("lif_td3", "agent.algorithm.exploration_noise=1", folder=tmp_path)
        run.learn(1)
        assert float(run.action_std.mean()) == 1.0

    def test_a_squashed_gaussian_has_torchs_probabilities_also_at_the_bounds(self):
        actor = runner("lif_sac").policy
        inputs = {"observations": torch.randn(64, 4)}
        torch.manual_seed(1)
        actions, outputs = actor.act(inputs)
        mean, log_std = actor.compute_gaussian(inputs)
        theirs = TransformedDistribution(
            Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)]
        )
        torch.manual_seed(1)
        noise = torch.randn_like(mean)
        sample = theirs.transforms[0](mean + log_std.exp() * noise)
        torch.testing.assert_close(actions, sample)
        torch.testing.assert_close(
            outputs["log_prob"].squeeze(-1), theirs.log_prob(sample), atol=1e-4, rtol=1e-4
        )
        with torch.no_grad():
            actor.network.readout.bias.fill_(40.0)
        actions, outputs = actor.act(inputs)
        assert torch.equal(actions, torch.ones_like(actions)) and outputs["log_prob"].isfinite().all()
        outputs["log_prob"].sum().backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in actor.parameters())

    def test_playback_is_the_mean_action(self):
        for agent in ("lif_td3", "lif_sac"):
            run = runner(agent)
            run.learn(2)
            obs = run.env.get_observations()
            policy = run.get_inference_policy()
            copied = policy.copy()
            wanted, _ = run.policy.compute({"observations": obs["policy"]})
            assert torch.equal(policy(obs), wanted) and torch.equal(copied(obs), wanted)
            assert policy.compute_activity(obs).rate > 0.0


@pytest.mark.parametrize("normalises", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "agent",
    [
        pytest.param("lif_td3", marks=pytest.mark.slow),
        "lif_sac",
        pytest.param("mlp_td3", marks=pytest.mark.slow),
    ],
)
def test_an_exported_policy_acts_as_the_policy_does(agent, normalises, tmp_path):
    from spiky_rl.deploy._export import write_and_verify
    from spiky_rl.deploy._targets import make_targets

    flags = [f"agent.{role}.obs_normalization={str(normalises).lower()}" for role in ("actor", "critic")]
    flags += ["agent.actor.hidden_dims=[8]"] if agent == "mlp_td3" else []
    run = runner(agent, *flags)
    run.learn(3)
    policy, exported = run.get_inference_policy(), run.get_exportable_policy()
    obs = run.env.get_observations()
    obs["policy"][0] = 100.0  # beyond the bound of the normalisation
    with torch.no_grad():
        torch.testing.assert_close(exported(obs), policy(obs), atol=1e-6, rtol=1e-6)
    run.env.reset = lambda: (run.env.get_observations(), {})
    found = write_and_verify(exported, run.env, tmp_path, make_targets(["torchscript", "onnx", "c"]))
    assert len(found) == 3 and all(each.steps > 0 for each in found.values())


@pytest.mark.parametrize(
    "case",
    [
        ("lif_td3", []),
        ("lif_sac", []),
        ("mlp_td3", ["agent.actor.hidden_dims=[8]", "agent.actor.obs_normalization=true"]),
        ("lif_td3", [f"agent.critic_network={json.dumps({**NETWORK, 'layers': [16]})}"]),
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in (
                ("lif_td3", ["agent.algorithm.target=proxy"]),
                ("lif_sac", ["agent.algorithm.learn_entropy=false"]),
                ("lif_td3", ["agent.critic.obs_normalization=true"]),
            )
        ),
    ],
    ids=str,
)
def test_every_kind_of_agent_trains_saves_and_resumes(case, tmp_path):
    agent, overrides = case
    env, path = CutEnv(4), str(tmp_path / "model.pt")
    run = runner(agent, *overrides, env=env)
    before = weights(run)
    losses = []
    run.on_iteration = lambda iteration: losses.append(iteration.losses)
    run.learn(3)
    assert not equal(weights(run), before) and {"critic", "actor"} <= set(losses[-1])
    assert all(math.isfinite(value) for value in losses[-1].values())
    run.save(path)
    other = runner(agent, *overrides, env=env, seed=9)
    other.load(path)
    assert equal(weights(other), weights(run))
    assert other.current_learning_iteration == 3 and other.progress == run.progress
    for name, module in run.alg.checkpoint_modules.items():
        if name.endswith("optimizer"):
            assert len(other.alg.checkpoint_modules[name].state_dict()["state"]) == len(
                module.state_dict()["state"]
            )
    other.learn(2)
    assert other.progress.iterations == 5 and other.progress.env_steps == 5 * 10 * 4


def test_a_resumed_run_fills_a_new_buffer_with_its_actor_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    path = str(tmp_path / "model.pt")
    run = runner("lif_td3", "agent.algorithm.random_steps=40")
    run.learn(2)
    run.save(path)
    other = runner("lif_td3", "agent.algorithm.random_steps=40", seed=5)
    other.load(path)
    drawn = []
    other.policy.random_act = lambda *args, **kwargs: drawn.append(1)
    other.learn(1)
    assert not drawn, "the random steps are over"
    assert any("no replay buffer" in record.message for record in caplog.records)
    assert len(other.alg.memory) == 40


class TestReplayFiles:
    """Runs that have been trained in a folder with files of their replay buffer at every second iteration."""

    @staticmethod
    def train(folder, *overrides, agent="lif_td3", iterations=6, **arguments):
        run = runner(agent, "agent.save_interval=2", *overrides, folder=folder, **arguments)
        run.learn(iterations)
        return run

    @staticmethod
    def resume(checkpoint, *overrides, agent="lif_td3", **arguments):
        other = runner(agent, *overrides, seed=5, **arguments)
        other.load(str(checkpoint))
        other._start()
        return other

    @pytest.fixture(scope="class")
    @classmethod
    def six(cls, tmp_path_factory):
        """A run of six iterations and its folder, in which nothing is changed."""
        folder = tmp_path_factory.mktemp("six")
        return cls.train(folder), folder

    @pytest.fixture(scope="class")
    @classmethod
    def two(cls, tmp_path_factory):
        """The folder of a run of two iterations, in which nothing is changed."""
        folder = tmp_path_factory.mktemp("two")
        cls.train(folder, iterations=2)
        return folder

    @pytest.mark.parametrize("agent", ["lif_td3", "lif_sac"])
    def test_a_resumed_training_learns_from_the_same_transitions_as_before(self, agent, six, tmp_path):
        run, folder = six if agent == "lif_td3" else (self.train(tmp_path, agent=agent), tmp_path)
        assert sorted(path.name for path in (folder / "replay").iterdir()) == [
            *("transitions_0.pt", "transitions_2.pt", "transitions_4.pt", "transitions_5.pt")
        ]
        other = self.resume(folder / "model_5.pt", agent=agent)
        first, second = run.alg.memory, other.alg.memory
        assert len(second) == len(first) == 6 * 10 * 4 and second.memory_index == first.memory_index
        for name, tensor in first.tensors.items():
            assert torch.equal(second.tensors[name][:60], tensor[:60]), name
        assert other.alg.is_learning and other.alg.counters == run.alg.counters
        # one in each of 60 control steps, but in the first 7, before `learning_starts`
        if agent == "lif_td3":
            assert other.alg.counters.critic_updates == 53

    def test_an_older_checkpoint_has_the_transitions_up_to_it(self, six):
        run, folder = six
        memory = self.resume(folder / "model_2.pt").alg.memory
        assert len(memory) == 3 * 10 * 4
        assert torch.equal(memory.tensors["actions"][:30], run.alg.memory.tensors["actions"][:30])

    def test_a_file_with_another_name_is_left_alone(self, tmp_path):
        self.train(tmp_path, iterations=1)
        (tmp_path / "replay" / "transitions_0 (copy).pt").write_text("")
        assert len(self.resume(tmp_path / "model_0.pt").alg.memory) == 10 * 4

    def test_a_full_buffer_goes_round_and_its_outlived_files_are_deleted(self, tmp_path):
        small = "agent.algorithm.replay_size=160"  # transitions of 40 control steps: 4 iterations
        run = self.train(tmp_path, small, iterations=8)
        names = {int(path.stem.partition("_")[2]) for path in (tmp_path / "replay").iterdir()}
        assert names == {4, 6, 7}
        memory, first = self.resume(tmp_path / "model_7.pt", small).alg.memory, run.alg.memory
        assert len(memory) == len(first) == 160
        shift = memory.memory_index - first.memory_index
        assert torch.equal(memory.tensors["observations"], first.tensors["observations"].roll(shift, 0))

    def test_other_numbers_of_environments_and_smaller_buffers_take_the_newest_transitions(self, six):
        run, folder = six
        newest = run.alg.memory.tensors["observations"][:60].reshape(240, -1)
        memory = self.resume(folder / "model_5.pt", env=CutEnv(2)).alg.memory
        assert len(memory) == 240
        assert torch.equal(memory.tensors["observations"][:120].view(240, -1), newest)
        # each file has 40 or 80 rows, fewer than a control step of all environments
        other = self.resume(folder / "model_5.pt", env=CutEnv(100))
        assert len(other.alg.memory) == 0 and other.alg.counters == run.alg.counters
        other.learn(1)
        assert len(other.alg.memory) == 400, "as full as it gets"
        memory = self.resume(folder / "model_5.pt", "agent.algorithm.replay_size=100").alg.memory
        rows = memory.tensors["observations"].roll(-memory.memory_index, 0)
        assert len(memory) == 100 and torch.equal(rows.view(100, -1), newest[-100:])

    def test_a_resumed_run_has_the_whole_buffer_in_its_own_folder(self, six, tmp_path):
        run, folder = six
        other = self.resume(folder / "model_5.pt", folder=tmp_path)
        other.learn(1)
        third = self.resume(tmp_path / "model_6.pt").alg.memory
        assert len(third) == 7 * 10 * 4
        assert torch.equal(third.tensors["rewards"][:60], run.alg.memory.tensors["rewards"][:60])

    @pytest.mark.parametrize("damage", ["torn", "not finite", "key", "shape"])
    def test_a_damaged_file_is_refused_by_its_name(self, damage, two, tmp_path):
        shutil.copytree(two, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "replay/transitions_1.pt"
        content = torch.load(path, weights_only=True)
        transitions = content["transitions"]
        if damage == "not finite":
            transitions["rewards"][0] = math.nan
        elif damage == "key":
            del transitions["actions"]
        elif damage == "shape":
            transitions["actions"] = transitions["actions"][1:]
        torch.save(content, path)
        if damage == "torn":
            path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="replay/transitions_1.pt"):
            self.resume(tmp_path / "model_1.pt")

    @pytest.mark.parametrize("reason", ["damage", "memory"])
    def test_a_resumption_that_fails_before_its_first_step_leaves_no_checkpoint(
        self, reason, two, tmp_path, monkeypatch
    ):
        old, new = tmp_path / "old", tmp_path / "new"
        shutil.copytree(two, old)
        new.mkdir()
        if reason == "damage":
            (old / "replay/transitions_1.pt").write_bytes(b"torn")
        else:
            monkeypatch.setattr("spiky_rl.learners.skrl.replay_runner.get_machine_memory", lambda: 1)
        other = runner("lif_td3", folder=new)
        other.load(str(old / "model_1.pt"))
        with pytest.raises((CheckpointError, UserError)):
            other.learn(1)
        assert not [*new.rglob("*.pt")]
        assert other.writer is None, "closed"

    def test_no_file_counts_as_a_checkpoint(self, two):
        assert find_last_checkpoint(two) == two / "model_1.pt"

    def test_what_is_played_or_compared_loads_no_transitions(self, two, tmp_path):
        shutil.copytree(two, tmp_path, dirs_exist_ok=True)
        (tmp_path / "replay/transitions_1.pt").write_bytes(b"")
        other = runner("lif_td3", seed=5)
        other.load(str(tmp_path / "model_1.pt"), {"actor": True})
        assert not other.alg.memory.tensors


def test_operations_count_recurrent_weights_that_began_at_zero():
    network = {**NETWORK, "recurrent": {"name": "recurrent", "gain": 0.0}}
    run = runner("lif_td3", "agent.algorithm.learning_starts=60", network=network)
    present = []
    run.on_iteration = lambda iteration: present.append(
        compute_activity(run.policy, run._get_latest_observations(), None, CostMeter(run.network)).operations
    )
    run.learn(6)
    assert run.progress.operations == present


def test_the_weight_of_the_entropy_is_kept(tmp_path):
    path = str(tmp_path / "model.pt")
    run = runner("lif_sac", "agent.algorithm.entropy_learning_rate=0.05")
    run.learn(3)
    learned = run.alg.entropy.log_value.detach().clone()
    assert not torch.equal(learned, torch.zeros(1))
    run.save(path)
    other = runner("lif_sac", "agent.algorithm.entropy_learning_rate=0.05", seed=5)
    other.load(path)
    assert torch.equal(other.alg.entropy.log_value.detach(), learned)
    other.learn(1)
    assert float(other.alg._entropy_coefficient) == pytest.approx(float(learned.exp()), rel=0.5)


def test_checkpoints_of_another_algorithm_are_refused(tmp_path):
    path = str(tmp_path / "model.pt")
    runner("lif_td3").save(path)
    with pytest.raises(CheckpointError, match="target_policy"):
        runner("lif_sac").load(path)
    with pytest.raises(CheckpointError, match="value"):
        ppo_runner(network=NETWORK).load(path)
    ppo_runner(network=NETWORK).save(path)
    with pytest.raises(CheckpointError):
        runner("lif_td3").load(path)


@pytest.mark.parametrize("parts", [None, {"actor": True, "critic": True}])
@pytest.mark.parametrize("targets", [("proxy", "spiking"), ("spiking", "proxy")])
def test_another_target_than_in_the_training_is_refused_by_name(targets, parts, tmp_path):
    trained, given = targets
    path = str(tmp_path / "model.pt")
    runner("lif_td3", f"agent.algorithm.target={trained}").save(path)
    with pytest.raises(CheckpointError, match=f"agent.algorithm.target: {given} given; allowed: {trained}"):
        runner("lif_td3", f"agent.algorithm.target={given}").load(path, parts)


@pytest.mark.parametrize("weights_only", [False, True])
def test_an_actor_is_loaded_alone_whatever_target_trained_it(weights_only, tmp_path):
    path = str(tmp_path / "model.pt")
    trained, other = runner("lif_td3", "agent.algorithm.target=proxy"), runner("lif_td3", seed=1)
    trained.save(path)
    if weights_only:
        content = torch.load(path, weights_only=True)
        content["infos"]["spiky_rl"]["weights_only"] = True
        torch.save(content, path)
    expected = weights(other) | {f"policy.{key}": value for key, value in trained.policy.state_dict().items()}
    other.load(path, {"actor": True})
    assert weights(other).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights(other).items())


def test_tensorboard_gets_losses_noise_spikes_and_times(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runner("lif_sac", folder=tmp_path, pictures=2)
    run.learn(3)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    wanted = {
        "Loss/critic",
        "Loss/actor",
        "Loss/entropy_weight",
        "Loss/learning_rate",
        "Policy/mean_std",
        "Spikes/rate",
    }
    wanted |= {"Perf/seconds_learning", "Train/mean_reward", "Cost/operations_per_step"}
    assert wanted <= set(tags["scalars"])
    assert "Spikes/raster" in tags["images"]
    assert (tmp_path / "model_2.pt").is_file()


class TestSettings:
    @pytest.mark.parametrize(
        ("overrides", "key", "given"),
        [
            (["agent.network.stateful=true"], "agent.network.stateful", "true"),
            (["agent.network={name: reservoir, size: 20}"], "agent.network.name", "reservoir"),
            (
                ["agent.network={name: reservoir, size: 20, train_input: true}"],
                "agent.network.name",
                "reservoir",
            ),
            (
                ["agent.network={name: reservoir, size: 20, plasticity: stdp}"],
                "agent.network.plasticity",
                "stdp",
            ),
            (["agent.network.learning=rstdp"], "agent.network.learning", "rstdp"),
            (["agent.critic.class_name=RNNModel"], "agent.critic.class_name", "RNNModel"),
            (["agent.burn_in=2"], "agent.burn_in", "2"),
            (
                ["agent.actor.distribution_cfg.class_name=CategoricalDistribution"],
                "agent.actor.distribution_cfg.class_name",
                "Categorical",
            ),
        ],
        ids=str,
    )
    def test_what_replay_would_get_wrong_is_refused_by_key_and_value(self, overrides, key, given):
        with pytest.raises(SpecError) as refused:
            LEARNER.make_runner_cfg(resolve_agent("lif_td3", "Isaac-Point", ISAAC, overrides))
        text = str(refused.value)
        assert key in text and given in text and "allowed" in text and "\n" not in text

    @pytest.mark.parametrize(
        ("agent", "override", "key"),
        [
            ("lif_td3", "agent.algorithm.clip_param=0.1", "agent.algorithm.clip_param"),
            ("lif_td3", "agent.algorithm.target_entropy=-1.0", "agent.algorithm.target_entropy"),
            ("lif_sac", "agent.algorithm.policy_delay=2", "agent.algorithm.policy_delay"),
            ("lif_ppo", "agent.algorithm.replay_size=1000", "agent.algorithm.replay_size"),
            ("lif_td3", "agent.algorithm.replay_size=100", "agent.algorithm.learning_starts"),
            ("lif_td3", "agent.algorithm.polyak=0.0", "agent.algorithm.polyak"),
            ("lif_td3", "agent.algorithm.updates_per_step=-1.0", "agent.algorithm.updates_per_step"),
            ("lif_td3", "agent.algorithm.target=ann", "agent.algorithm.target"),
        ],
    )
    def test_a_setting_of_another_algorithm_or_out_of_range_is_refused(self, agent, override, key):
        with pytest.raises(SpecError, match=key):
            resolve_agent(agent, "Isaac-Point", ISAAC, [override])

    @pytest.mark.parametrize(
        ("agent", "key", "value"),
        [("lif_td3", "init_std", "0.3"), ("lif_td3", "std_range", "[0.1,1.0]"), ("lif_sac", "learn_std", "false"),
         ("lif_sac", "std_range", "[0.0,1.0]")],
    )  # fmt: skip
    def test_action_noise_that_would_be_ignored_or_has_no_logarithm_is_refused(self, agent, key, value):
        path = "agent.actor.distribution_cfg"
        host = {
            **ISAAC,
            "actor": {**ISAAC["actor"], "distribution_cfg": {"class_name": "GaussianDistribution"}},
        }
        host["actor"]["distribution_cfg"]["init_std"] = 0.5  # the host's own, for PPO
        LEARNER.make_runner_cfg(resolve_agent(agent, "Isaac-Point", host))
        with pytest.raises(SpecError, match=f"{path}.{key}"):
            LEARNER.make_runner_cfg(resolve_agent(agent, "Isaac-Point", host, [f"{path}.{key}={value}"]))

    @pytest.mark.parametrize("agent", ["lif_sac", "mlp_sac"])
    def test_bounds_of_the_hosts_ppo_are_not_those_of_sac_but_the_agents_own_are(self, agent, tmp_path):
        def get_bounds(name, *overrides):
            host = to_agent_layout(RAW, "Isaac-Point")
            assert host["actor"]["distribution_cfg"]["std_range"] == [math.exp(-20.0), math.exp(2.0)]
            spec = resolve_agent(name, "Isaac-Point", host, overrides, host="Isaac Lab")
            return LEARNER.make_runner_cfg(spec)["policy"]["std_range"], spec.origins.get(NOISE_BOUNDS)

        assert get_bounds(agent) == ([], None)
        override = "agent.actor.distribution_cfg.std_range=[0.01,1.0]"
        assert get_bounds(agent, override) == ([0.01, 1.0], "command line")
        low = "agent.actor.distribution_cfg.std_range=[0.01,0.5]"  # below the host's init_std, which is PPO's too
        assert get_bounds(agent, low) == ([0.01, 0.5], "command line")
        path = tmp_path / "mine.yaml"
        path.write_text(
            "actor: {distribution_cfg: {std_range: [0.01, 1.0]}, hidden_dims: [8]}\nalgorithm: {class_name: SAC}"
        )
        assert get_bounds(str(path)) == ([0.01, 1.0], "mine.yaml")

    def test_bounds_of_the_hosts_ppo_stay_with_ppo(self):
        host = to_agent_layout(RAW, "Isaac-Point")
        spec = resolve_agent("lif_ppo", "Isaac-Point", host, host="Isaac Lab")
        bounds = LEARNER.make_runner_cfg(spec)["models"]["policy"]["std_range"]
        assert bounds == [math.exp(-20.0), math.exp(2.0)]

    @pytest.mark.parametrize("role", ["actor", "critic"])
    def test_a_batch_of_one_sample_which_has_no_variance_is_refused_with_normalisation(self, role):
        one, normalised = "agent.algorithm.batch_size=1", f"agent.{role}.obs_normalization=true"
        with pytest.raises(SpecError, match=r"agent\.algorithm\.batch_size: 1 given; allowed .*: at least 2"):
            LEARNER.make_runner_cfg(specification("lif_td3", one, normalised))
        LEARNER.make_runner_cfg(specification("lif_td3", one))
        # raises if a loss is not finite
        runner("lif_td3", "agent.algorithm.batch_size=2", normalised).learn(1)

    def test_a_proxy_of_an_ann_is_refused(self):
        with pytest.raises(SpecError, match="agent.algorithm.target"):
            LEARNER.make_runner_cfg(
                resolve_agent("mlp_td3", "Isaac-Point", ISAAC, ["agent.algorithm.target=proxy"])
            )

    def test_another_algorithm_drops_the_settings_of_the_one_before(self):
        spec = resolve_agent("lif_td3", "Isaac-Point", ISAAC)
        assert spec.algorithm == "td3" and not {"num_learning_epochs", "schedule"} & set(
            spec.runner["algorithm"]
        )
        back = resolve_agent("lif_td3", "Isaac-Point", ISAAC, ["agent.algorithm.class_name=PPO"])
        assert back.algorithm == "ppo" and back.runner["algorithm"] == {"class_name": "PPO"}
        assert resolve_agent("lif_ppo", "Isaac-Point", ISAAC).runner["algorithm"]["num_learning_epochs"] == 5

    def test_the_replay_buffer_counts_in_the_memory_of_a_run(self):
        spec = resolve_agent("lif_td3", "Isaac-Point", ISAAC, ["agent.algorithm.replay_size=1000000000"])
        with pytest.raises(UserError, match="agent.algorithm.replay_size"):
            memory_check.check_run_memory(spec, 1, 10**9)
        memory_check.check_run_memory(resolve_agent("lif_td3", "Isaac-Point", ISAAC), 1, 10**9)

    def test_the_buffer_itself_is_checked_before_it_is_made(self, monkeypatch):
        run = runner()
        monkeypatch.setattr(
            "spiky_rl.learners.skrl.replay_runner.get_machine_memory", lambda: 400 * (4 * 11 + 1) - 1
        )
        with pytest.raises(UserError, match="agent.algorithm.replay_size"):
            run.learn(1)
        monkeypatch.setattr(
            "spiky_rl.learners.skrl.replay_runner.get_machine_memory", lambda: 400 * (4 * 11 + 1)
        )
        run.learn(1)


class TestLearners:
    def test_an_agent_gets_the_library_of_its_algorithm(self):
        for agent, library in (("lif_ppo", "rsl_rl"), ("lif_td3", "skrl"), ("mlp_sac", "skrl")):
            assert select_learner(None, read_algorithm(agent), agent).name == library
        assert select_learner("skrl", read_algorithm("lif_ppo"), "lif_ppo").name == "skrl"
        assert read_algorithm("lif_ppo", ["agent.algorithm.class_name=SAC"]) == "sac"

    def test_a_library_without_the_algorithm_is_refused_in_one_line(self):
        with pytest.raises(UserError) as refused:
            select_learner("rsl_rl", "td3", "lif_td3")
        text = str(refused.value)
        assert "--rl_library rsl_rl" in text and "allowed: skrl" in text and "\n" not in text

    def test_a_hosts_own_command_has_no_replay(self):
        with pytest.raises(SpecError, match="agent.algorithm.class_name: TD3"):
            LEARNER.make_registered_cfg(resolve_agent("lif_td3", "Isaac-Point", ISAAC), {})
