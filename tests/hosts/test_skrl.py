"""skrl as a host: the same function as in rsl_rl, states as the rollout had them, playback that remembers."""

import copy
from types import SimpleNamespace

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")
import torch
from skrl.agents.torch.ppo import PPO_RNN

from spiky_rl.hosts.environment import Stopwatch
from spiky_rl.learners.rsl_rl.runner import RslRlRunner as RslRunner
from spiky_rl.learners.skrl.config import make_runner_cfg
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO
from spiky_rl.learners.skrl.runner import SkrlRunner
from tests.agents import PPO_AGENTS, mark_slow, refused_by_skrl, takes_images
from tests.hosts.point_env import PointEnv, config
from tests.hosts.skrl_case import PLAIN, SPIKING, rollout, runner, specification

STATEFUL = {**SPIKING, "stateful": True}
GRU = {"agent": "gru_ppo"}


def settings(stateful: bool) -> dict:
    return STATEFUL if stateful else SPIKING


def same_weights(stateful: bool, spiking_critic: bool):
    """Runners of both hosts whose models hold the same weights."""
    network = settings(stateful)
    critic = {**network, "layers": [8]} if spiking_critic else None
    torch.manual_seed(0)
    theirs = RslRunner(PointEnv(), config(network, critic=critic))
    ours = runner(network=network, critic=critic, seed=5)
    actor = theirs.alg.actor
    with torch.no_grad():
        actor.distribution.std_param.copy_(torch.tensor([0.7, 1.3]))
        ours.policy.log_std.copy_(actor.distribution.std_param.log())
    ours.policy.network.load_state_dict(actor.network.state_dict())
    value = theirs.alg.critic.network if spiking_critic else theirs.alg.critic.mlp
    (ours.value.network if spiking_critic else ours.value.body.mlp).load_state_dict(value.state_dict())
    return theirs, ours


@pytest.mark.parametrize("spiking_critic", [False, True])
@pytest.mark.parametrize("stateful", [False, True])
def test_the_same_weights_give_the_same_mean_log_probability_and_value_in_both_hosts(
    stateful, spiking_critic
):
    theirs, ours = same_weights(stateful, spiking_critic)
    env = PointEnv(seed=3)
    obs, states = env.get_observations(), {"policy": [], "value": []}
    actor, critic = theirs.alg.actor, theirs.alg.critic
    with torch.no_grad():
        for _ in range(12):
            actions = actor(obs, stochastic_output=True)
            seen = {"observations": obs["policy"], "taken_actions": actions}
            _, found = ours.policy.act({**seen, "rnn": states["policy"]}, role="policy")
            value, valued = ours.value.act({**seen, "rnn": states["value"]}, role="value")
            assert torch.allclose(found["mean_actions"], actor.output_mean, atol=1e-6)
            assert torch.allclose(found["log_prob"][:, 0], actor.get_output_log_prob(actions), atol=1e-5)
            assert torch.allclose(value, critic(obs), atol=1e-6)
            obs, _, dones, _ = env.step(actions)
            actor.reset(dones)
            critic.reset(dones)
            goes_on = 1.0 - dones.view(1, -1, 1).float()
            states = {
                "policy": [s * goes_on for s in found["rnn"]],
                "value": [s * goes_on for s in valued["rnn"]],
            }


def test_the_comparison_tells_other_weights_apart():
    theirs, ours = same_weights(False, False)
    with torch.no_grad():
        next(ours.policy.network.parameters()).add_(0.3)
        obs = theirs.env.get_observations()
        mean, _ = ours.policy.compute({"observations": obs["policy"]})
        assert not torch.allclose(mean, theirs.alg.actor(obs), atol=1e-3)


def replayed_difference(run) -> float:
    """Largest difference between stored and replayed log-probabilities, over the minibatches of an update."""
    agent, length = run.alg, run.cfg["num_steps_per_env"]
    names = ["observations", "actions", "log_prob", "terminated", "truncated"]
    states = [f"rnn_policy_{i}" for i in range(len(run.policy.state_shapes))]
    worst = 0.0
    for batch in agent.memory.sample_all(names=[*names, *states], mini_batches=2, sequence_length=length):
        x, actions, log_prob, terminated, truncated, *stored = batch
        rnn = {"rnn": [s.transpose(0, 1) for s in stored], "terminated": terminated, "truncated": truncated}
        inputs = {
            "observations": agent.normalize_observations(x),
            "taken_actions": actions,
            **(rnn if stored else {}),
        }
        with torch.no_grad():
            _, outputs = agent.policy.act(inputs, role="policy")
        worst = max(worst, (outputs["log_prob"] - log_prob).abs().max().item())
    return worst


RECURRENT = {"lif": {"network": STATEFUL}, "both": {"network": STATEFUL, "critic": STATEFUL}, "gru": GRU}
ALL = {"stateless": {"network": SPIKING}, "mlp": {}, **RECURRENT, "critic alone": {"critic": STATEFUL}}


@pytest.mark.parametrize("case", ALL)
def test_the_update_sees_the_log_probabilities_that_the_rollout_stored(case):
    run = runner(**ALL[case])
    assert type(run.alg) is (SkrlSpikingPPO if case in ("stateless", "mlp") else SpikingRecurrentPPO)
    observations = None
    for _ in range(2):  # the second rollout starts in the middle of episodes, from a state that is not rest
        observations = rollout(run, observations)
        assert replayed_difference(run) < 1e-5
    assert run.alg.memory.get_tensor_by_name("terminated").sum() > 4


VECTORS = [name for name in PPO_AGENTS if not takes_images(name) and not refused_by_skrl(name)]


# the slow one's network is the other reservoirs', its graph is read from a file
@pytest.mark.parametrize("agent", mark_slow(VECTORS, {*VECTORS} - {"lif_grown_reservoir_ppo"}))
def test_every_agent_on_vectors_trains_and_is_replayed_exactly(agent):
    run = runner(agent=agent)
    rollout(run, rollout(run))
    assert replayed_difference(run) < 1e-5
    run.learn(1)
    assert len(run.progress.returns) == 1


def stored_and_used(run) -> list[float]:
    """For every control step of a rollout, the largest difference between the policy state stored and the one it had."""
    used, act = [], run.policy.act

    def watched(inputs, **rest):
        used.append([s.clone() for s in inputs["rnn"]])
        return act(inputs, **rest)

    run.policy.act = watched
    rollout(run)
    run.policy.act = act
    names = [f"rnn_policy_{i}" for i in range(len(run.policy.state_shapes))]
    stored = [run.alg.memory.get_tensor_by_name(name) for name in names]
    return [
        max(
            (kept[t].transpose(0, 1) - had).abs().max().item()
            for kept, had in zip(stored, used[t], strict=True)
        )
        for t in range(len(used))
    ]


def test_every_policy_state_is_stored_as_the_policy_had_it():
    assert stored_and_used(runner(network=STATEFUL)) == [0.0] * 16


def test_skrls_own_recurrent_agent_stores_another_state_from_the_second_step_on():
    """The bug that ours is there for; when this fails, skrl has mended it and `SpikingRecurrentPPO` can go."""
    run = runner(network=STATEFUL)
    run.alg.record_transition = PPO_RNN.record_transition.__get__(run.alg)
    first, *later = stored_and_used(run)
    assert first == 0.0
    assert min(later) > 0.01
    assert replayed_difference(run) < 1e-5, "a replay from the first step alone does not notice"
    rollout(run)
    assert replayed_difference(run) > 0.01, "one that starts within an episode does"


def test_skrls_own_agent_does_not_advance_the_state_when_it_only_acts_and_our_playback_does():
    run = runner(network=STATEFUL)
    run.alg.enable_training_mode(False, apply_to_models=True)
    env = run.env
    for _ in range(3):
        with torch.no_grad():
            run.alg.act(env.get_observations()["policy"], None, timestep=0, timesteps=0)
    assert all((s == 0).all() for s in run.alg._rnn_initial_states["policy"])
    played = run.get_inference_policy()
    assert played.state is None
    first = played(env.get_observations())
    assert any((s != 0).any() for s in played.state)
    assert not torch.equal(played(env.get_observations()), first)


@pytest.mark.parametrize("case", RECURRENT)
def test_playback_is_the_rollout_without_noise_and_starts_episodes_at_rest(case):
    run = runner(**RECURRENT[case])
    played = run.get_inference_policy()
    env = PointEnv(8, seed=7)
    obs, ended = env.get_observations(), 0
    history = [[obs["policy"][i : i + 1]] for i in range(8)]
    for _ in range(12):
        actions = played(obs)
        for i, seen in enumerate(history):
            x, state = torch.stack(seen), run.policy.zero_state(1, seen[0])
            with torch.no_grad():
                assert torch.allclose(run.policy.body(x, state)[0][-1, 0], actions[i], atol=1e-5)
        obs, _, dones, _ = env.step(actions)
        played.reset(dones)
        ended += int(dones.sum())
        for i, seen in enumerate(history):
            history[i] = ([] if dones[i] else seen) + [obs["policy"][i : i + 1]]
    assert ended > 3
    played.reset()
    assert played.state is None


def test_playback_measures_spikes_and_leaves_the_state_alone():
    run = runner(network=STATEFUL)
    played, obs = run.get_inference_policy(), run.env.get_observations()
    played(obs)
    before = [s.clone() for s in played.state]
    activity, spikes = played.compute_activity(obs), played.compute_spikes(obs)
    assert 0 < activity.rate < 1 and len(activity.layers) == 2
    assert activity.ann_operations == 4 * 16 + 16 * 2
    assert [tuple(s.shape) for s in spikes] == [(4, 16), (4, 12)]
    assert all(torch.equal(a, b) for a, b in zip(before, played.state, strict=True))
    ann = runner().get_inference_policy()
    assert ann.compute_spikes(obs) is None and ann.compute_activity(obs).rate == 0.0


@pytest.mark.parametrize("case", ALL)
def test_models_tolerate_single_samples_without_states_and_never_write_a_state(case):
    run = runner(**ALL[case])
    for model in (run.policy, run.value):
        model.init_state_dict(role="any")
        shapes = [
            (1, 8, width) for width in (model.network.state_sizes if model.stateful and model.network else ())
        ]
        if model.network is not None:
            assert model.get_specification()["rnn"]["sizes"] == shapes
        assert model.get_specification()["rnn"]["sequence_length"] == 16
        state = [s + 0.5 for s in model.zero_state(8, torch.zeros(1))]
        before = copy.deepcopy(state)
        model.compute({"observations": torch.ones(8, 4), "rnn": state})
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


def test_the_action_noise_learns_at_a_rate_of_its_own_on_both_hosts():
    rates = {"learning_rate": 0.001, "critic_learning_rate": 0.01, "std_learning_rate": 0.002}
    fixed = [
        "agent.algorithm.schedule=fixed",
        *(f"agent.algorithm.{key}={rate}" for key, rate in rates.items()),
    ]
    theirs = RslRunner(PointEnv(), config(SPIKING, **rates))
    ours = runner(*fixed, network=SPIKING)
    for run, noise in ((theirs, theirs.alg.actor.distribution.std_param), (ours, ours.policy.log_std)):
        groups = run.alg.optimizer.param_groups
        assert [group["lr"] for group in groups] == [0.001, 0.01, 0.002]
        assert len(groups[2]["params"]) == 1 and groups[2]["params"][0] is noise
        assert sum(len(g["params"]) for g in groups) == sum(len(list(m.parameters())) for m in run.models)


def test_what_does_not_spike_learns_at_a_rate_of_its_own():
    fixed = ["agent.algorithm.schedule=fixed", "agent.algorithm.learning_rate=0.0"]
    run = runner(*fixed, "agent.algorithm.critic_learning_rate=0.01", network=SPIKING)
    before = copy.deepcopy(run.policy.state_dict()), copy.deepcopy(run.value.state_dict())
    run.learn(1)
    after = run.policy.state_dict()
    assert not torch.equal(before[0]["log_std"], after["log_std"])
    assert all(
        torch.equal(after[k], v) for k, v in before[0].items() if k != "log_std" and "_extra_state" not in k
    )
    assert all(not torch.equal(run.value.state_dict()[k], v) for k, v in before[1].items())
    assert [group["lr"] for group in run.alg.checkpoint_modules["optimizer"].param_groups] == [0.0, 0.01]


def test_networks_count_updates_in_both_agents():
    for network in (SPIKING, STATEFUL):
        run = runner(network=network)
        run.learn(3)
        assert run.policy.network.updates == 3


def test_the_environment_tells_terminations_from_time_outs():
    class Cut(PointEnv):
        """Every second end is one of time."""

        def step(self, actions):
            obs, rewards, dones, _extras = super().step(actions)
            return obs, rewards, dones, {"time_outs": torch.arange(self.num_envs) % 2 == 0}

    run = runner(env=Cut())
    ends = torch.zeros(2, 8, dtype=torch.bool)
    for _ in range(20):
        _, rewards, terminated, truncated, _ = run.environment.step(torch.zeros(8, 2))
        assert rewards.shape == terminated.shape == truncated.shape == (8, 1)
        ends |= torch.stack([terminated[:, 0], truncated[:, 0]])
    assert ends[0].tolist() == [False, True] * 4
    assert ends[1].tolist() == [True, False] * 4


def test_an_episode_that_fails_in_its_last_allowed_step_is_terminated(monkeypatch):
    environment = pytest.importorskip(
        "spiky_rl.hosts.isaaclab.environment", reason="the isaaclab extra is not installed"
    )

    class Failing(PointEnv):
        """Every episode's time is up when it ends; in every other environment it fails as well."""

        def step(self, actions):
            obs, rewards, dones, _extras = super().step(actions)
            self.reset_terminated = dones.bool() & (torch.arange(self.num_envs) % 2 == 0)
            return obs, rewards, dones, {"time_outs": dones.bool()}

    world = Failing()
    monkeypatch.setattr(environment.RslRlVecEnvWrapper, "step", lambda _, actions: world.step(actions))
    host = environment.IsaacLabVecEnv.__new__(environment.IsaacLabVecEnv)
    host.env, host.stopwatch = world, Stopwatch("cpu")
    host.broken = SimpleNamespace(is_excessive=torch.zeros((), dtype=torch.bool))
    wrapped = runner(env=world).environment
    wrapped._env = host
    ends = torch.zeros(2, 8, dtype=torch.bool)
    for _ in range(20):
        _, _, terminated, truncated, _ = wrapped.step(torch.zeros(8, 2))
        ends |= torch.stack([terminated[:, 0], truncated[:, 0]])
    assert ends[0].tolist() == [True, False] * 4
    assert ends[1].tolist() == [False, True] * 4


@pytest.mark.parametrize("case", ["both", "gru"])
def test_the_value_at_a_time_limit_remembers_the_step_before_it(case):
    class Cut(PointEnv):
        """Episodes end by time alone."""

        def step(self, actions):
            obs, rewards, dones, _extras = super().step(actions)
            return obs, rewards, dones, {"time_outs": dones.bool(), "final_observations": obs.clone()}

    run = runner(**RECURRENT[case], env=Cut())
    found, value_of = [], run.alg._compute_next_values

    def compute(transition):
        found.append((transition["next_observations"], value_of(transition)))
        return found[-1][1]

    run.alg._compute_next_values = compute
    run._start()
    obs, state = run.environment.reset()[0], run.value.zero_state(8, torch.zeros(1))
    for _ in range(8):
        with torch.no_grad():
            _, outputs = run.value.compute({"observations": obs, "rnn": state})
            obs = run._run_control_step(obs, {"timestep": 0, "timesteps": 1})
            final, value = found[-1]
            wanted, _ = run.value.compute({"observations": final, "rnn": outputs["rnn"]})
        torch.testing.assert_close(value, wanted)
        ended = run.env.episode_length_buf.view(1, -1, 1) == 0
        state = tuple(torch.where(ended, 0.0, s) for s in outputs["rnn"])


def test_a_critic_of_its_own_observations_gets_them():
    class Privileged(PointEnv):
        """The critic sees one number more."""

        def get_observations(self):
            obs = super().get_observations()
            obs["critic"] = torch.cat([obs["policy"], obs["policy"].norm(dim=-1, keepdim=True)], dim=-1)
            return obs

    torch.manual_seed(0)
    settings = make_runner_cfg(specification(**PLAIN, network=SPIKING))
    settings["obs_groups"]["critic"], settings["states"] = ["critic"], True
    settings["models"]["value"]["source"] = "states"
    run = SkrlRunner(Privileged(), settings)
    assert run.value.body.mlp[0].in_features == 5
    run.learn(2)
    assert torch.allclose(
        run.alg.memory.get_tensor_by_name("states")[:, :, :4],
        run.alg.memory.get_tensor_by_name("observations"),
    )
