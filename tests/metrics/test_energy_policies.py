"""The cost of policies of both hosts: closed loop, in what play.py writes, and in TensorBoard; an ANN keeps its state."""

import json

import pytest
import torch

from spiky_rl.learners.common.activity import write_activity
from spiky_rl.learners.rsl_rl.activity import compute_last_activity
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.metrics.energy import ENERGY_MODELS
from spiky_rl.run.measure import make_cost_record
from spiky_rl.run.play import play_episodes
from tests.hosts import skrl_case
from tests.hosts.image_env import ImageEnv
from tests.hosts.point_env import LIF, PointEnv, config

ENVIRONMENTS, EPISODES, OBSERVED, ACTIONS = 4, 6, 4, 2
SPIKING = {"layers": [16, 12], **LIF}
MLP = 4 * 16 + 16 * 2
"""Multiply-accumulates of the ANN."""
GRU = {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 8, "rnn_num_layers": 1}
CNN = {"output_channels": [4], "kernel_size": [3], "stride": [2], "activation": "relu"}


class Point(PointEnv):
    """The point mass, as playback takes it."""

    def reset(self):
        self.state = self._draw(self.num_envs)
        self.episode_length_buf.zero_()

    def make_measures(self):
        return Nothing()


class Nothing:
    """Measures of an environment that has no robot."""

    def reset(self):
        """Nothing begins."""

    def step(self, dones):
        return {}


def rsl_rl(network=None, environment=Point, actor=None):
    torch.manual_seed(0)
    settings = config(network)
    settings["actor"] |= actor or {}
    return RslRlRunner(environment(ENVIRONMENTS), settings)


def skrl(network=None, environment=Point):
    network = None if network is None else {"name": "feedforward", **network}
    return skrl_case.runner(env=environment(ENVIRONMENTS), network=network)


def played(run):
    return play_episodes(run.env, run.get_inference_policy(), EPISODES)


def per_action(rows):
    """Operations of an action, from the means of episodes of different lengths."""
    return sum(row["operations"] * row["length"] for row in rows) / sum(row["length"] for row in rows)


class Uneven(Point):
    """Environment 0 sees nothing at all, and environment 1 three times what there is."""

    def get_observations(self):
        obs = super().get_observations()
        obs["policy"][0] = 0.0
        obs["policy"][1] *= 3.0
        return obs


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("host", [rsl_rl, skrl])
def test_an_episodes_row_is_of_its_own_environment(host, stateful):
    unbiased = {**LIF["connection"], "bias": False}
    playback = played(host({**SPIKING, "stateful": stateful, "connection": unbiased}, Uneven))
    by_place = {
        place: [r for r in playback.rows if r["environment"] == place] for place in range(ENVIRONMENTS)
    }
    assert all((r["firing_rate"], r["operations"]) == (0.0, 0.0) for r in by_place[0]), "no input, no spike"
    others = [r for place in (1, 2, 3) for r in by_place[place]]
    assert all(r["firing_rate"] > 0.01 and r["operations"] > 0.0 for r in others)
    assert len({r["firing_rate"] for r in others}) == len(others), "no two episodes are alike"
    assert playback.cost.effective_operations == pytest.approx(per_action(playback.rows), rel=1e-5)


@pytest.mark.parametrize("host", [rsl_rl, skrl])
@pytest.mark.parametrize("stateful", [False, True])
def test_playback_of_a_spiking_policy_has_the_cost_of_an_action_and_its_anns(host, stateful):
    playback = played(host({**SPIKING, "stateful": stateful}))
    record = make_cost_record(playback.cost, playback.ann_operations, playback.actions_per_second)
    cost = json.loads(json.dumps(record))
    assert cost["effective_macs"] == OBSERVED * 16, "the observation, once per action"
    assert (
        0 < cost["effective_acs"] < cost["dense_operations"] == OBSERVED * 16 + 4 * (16 * 12 + 12 * ACTIONS)
    )
    assert cost["effective_operations"] == pytest.approx(per_action(playback.rows), rel=1e-5)
    assert cost["neuron_updates"] == 4 * (16 + 12 + ACTIONS)
    assert 0 < cost["activation_sparsity"] < 1
    assert set(cost["energy_nj"]) == set(ENERGY_MODELS)
    assert cost["ann_dense_operations"] == MLP
    assert cost["effective_operations_per_second"] == pytest.approx(
        cost["effective_operations"] * cost["actions_per_second"]
    )


def test_weights_that_become_zero_as_a_plastic_policy_acts_cost_nothing_from_then_on():
    run = rsl_rl(SPIKING)
    policy, obs = run.get_inference_policy(), run.env.get_observations()
    policy.is_plastic = True
    with torch.no_grad():
        before = policy.compute_activity(obs)
        policy.network.readout.weight.zero_()
        after = policy.compute_activity(obs)
    spikes = 4 * 12 * before.layers[1].rate
    assert before.operations - after.operations == pytest.approx(ACTIONS * spikes) and spikes > 0


@pytest.mark.parametrize("host", [rsl_rl, skrl])
def test_playback_of_an_mlp_stands_on_the_same_scale(host):
    cost = played(host()).cost
    assert cost.effective_macs == pytest.approx(cost.dense_operations) == MLP
    assert (cost.effective_acs, cost.neuron_updates) == (0, 16)
    assert cost.parameters == MLP + 16 + ACTIONS


def gru_of_rsl_rl():
    return rsl_rl(actor=GRU)


def gru_of_skrl():
    return skrl_case.runner("agent.actor.rnn_hidden_dim=8", env=Point(ENVIRONMENTS), agent="gru_ppo")


@pytest.mark.parametrize("run", [gru_of_rsl_rl, gru_of_skrl])
def test_a_gru_is_measured_without_moving_its_state(run):
    watched, other = run(), run()
    policy, alone, obs = (
        watched.get_inference_policy(),
        other.get_inference_policy(),
        watched.env.get_observations(),
    )
    with torch.inference_mode():
        policy(obs)
        alone(obs)
        cost = policy.compute_activity(obs).cost
        assert policy.compute_activity(obs).cost == cost, "looking twice sees the same"
        assert torch.equal(policy(obs), alone(obs))
    assert cost.effective_macs == cost.dense_operations == 3 * (8 * 4 + 8 * 8) + 8 * 16 + 16 * 2
    assert cost.neuron_updates == 8 + 16
    assert cost.state_bytes == 4 * (8 + 16)


def test_a_cnn_pays_for_the_pixels_that_are_not_dark():
    torch.manual_seed(0)
    settings = config()
    settings["obs_groups"] = {"actor": ["policy"], "critic": ["critic"]}
    settings["actor"] |= {"class_name": "CNNModel", "cnn_cfg": CNN}
    run = RslRlRunner(ImageEnv(ENVIRONMENTS), settings)
    policy, obs = run.get_inference_policy(), run.env.get_observations()
    with torch.inference_mode():
        seen = policy.compute_activity(obs)
        dark = obs.clone()
        dark["policy"] = torch.zeros_like(obs["policy"])
        unseen = policy.compute_activity(dark)
    assert seen.cost.dense_operations == unseen.cost.dense_operations == seen.operations
    assert unseen.cost.effective_macs < seen.cost.effective_macs <= seen.cost.dense_operations


class Written(dict):
    """A writer that keeps the last value of every tag."""

    def add_scalar(self, name, value, index):
        self[name] = value


@pytest.mark.parametrize("network", [SPIKING, None])
def test_tensorboard_gets_the_cost_beside_its_old_tags(network):
    run = rsl_rl(network)
    policy = run.get_inference_policy()
    with torch.inference_mode():
        activity = policy.compute_activity(run.env.get_observations())
    written = Written()
    write_activity(written, 0, activity, {"learning": 1.0})
    old = {"Perf/seconds_learning", "Cost/operations_per_step", "Cost/ann_operations_per_step"}
    kinds = ("effective_macs", "effective_acs", "dense_operations", "neuron_updates")
    new = {f"Cost/{kind}_per_step" for kind in kinds} | {
        "Cost/activation_sparsity",
        "Cost/energy_nj_per_step",
    }
    assert old | new <= set(written)
    assert written["Cost/operations_per_step"] == activity.operations
    assert written["Cost/energy_nj_per_step"] == pytest.approx(
        activity.cost.compute_energy(ENERGY_MODELS["fp32"]) / 1000
    )


@pytest.mark.parametrize("actor", [None, GRU])
def test_training_measures_an_ann_and_goes_on_from_the_state_that_it_was_in(actor):
    run = rsl_rl(actor=actor)
    run.learn(2)
    before = run.alg.actor.get_hidden_state()
    cost = compute_last_activity(run.alg).cost
    after = run.alg.actor.get_hidden_state()
    assert cost.effective_macs == cost.dense_operations > 0
    assert before is after
