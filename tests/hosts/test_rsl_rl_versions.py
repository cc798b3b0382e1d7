"""What differs between rsl_rl 5.4, which mjlab pins, and rsl_rl 5.5, which Isaac Lab pins; the tests run with either."""

import pytest

rsl_rl = pytest.importorskip("rsl_rl", reason="rsl_rl is not installed")
import torch
from rsl_rl.algorithms import PPO
from tensordict import TensorDict

from spiky_rl.learners.rsl_rl import SpikingModel, SpikingPPO

NUM_ENVS, STEPS, OBSERVATIONS, ACTIONS = 4, 6, 3, 2
GROUPS = {"actor": ["policy"], "critic": ["policy"]}
NOISE = {"class_name": "GaussianDistribution", "init_std": 1.0}


def observe(*shape):
    return TensorDict({"policy": torch.randn(*shape, OBSERVATIONS)}, batch_size=shape)


def make_actor(**network):
    settings = {"name": "feedforward", "layers": [8, 8], **network}
    return SpikingModel(
        observe(NUM_ENVS), GROUPS, "actor", ACTIONS, network=settings, distribution_cfg=dict(NOISE)
    )


def test_states_in_a_list_are_those_in_a_tuple():
    actor = make_actor(stateful=True)
    obs, masks = observe(STEPS, NUM_ENVS), torch.ones(STEPS, NUM_ENVS, dtype=torch.bool)
    state = tuple(torch.rand_like(s) for s in actor.network.zero_state(NUM_ENVS, obs["policy"]))
    assert len(state) > 1
    outputs = [actor(obs, masks, hidden_state=kind(state)) for kind in (tuple, list)]
    assert torch.equal(*outputs) and not torch.equal(outputs[0], actor(obs, masks))


class Env:
    num_envs, num_actions, device = NUM_ENVS, ACTIONS, "cpu"


def make_algorithm(name):
    critic = {"class_name": "MLPModel", "hidden_dims": [8]}
    network = {"name": "feedforward", "layers": [8], "encoder": {"name": "rate"}}
    cfg = {
        "num_steps_per_env": STEPS,
        "obs_groups": dict(GROUPS),
        "multi_gpu": None,
        "torch_compile_mode": None,
        "actor": {
            "class_name": "spiky_rl.learners.rsl_rl:SpikingModel",
            "network": network,
            "distribution_cfg": dict(NOISE),
        },
        "critic": critic,
        "algorithm": {"class_name": name, "num_learning_epochs": 2, "num_mini_batches": 2},
    }
    kind = PPO if name == "PPO" else SpikingPPO
    return kind.construct_algorithm(observe(NUM_ENVS), Env(), cfg, "cpu")


def collect(algorithm):
    with torch.inference_mode():
        for _ in range(STEPS):
            algorithm.act(observe(NUM_ENVS))
            algorithm.process_env_step(observe(NUM_ENVS), torch.randn(NUM_ENVS), torch.zeros(NUM_ENVS), {})
        algorithm.compute_returns(observe(NUM_ENVS))


@pytest.mark.parametrize("name", ["PPO", "spiky_rl.learners.rsl_rl:SpikingPPO"])
def test_an_update_counts_once_and_a_control_step_never(name):
    algorithm = make_algorithm(name)
    algorithm.train_mode()
    network = algorithm.get_policy().network
    for iteration in range(3):
        collect(algorithm)
        # rsl_rl 5.4 updates the normalisation in every control step; a rollout must have one and the same noise
        assert network.updates == iteration
        before = [network.updates]
        algorithm.update()
        if name != "PPO":
            assert (
                network.updates == iteration + 1
            ), "a checkpoint of our runner counts the update that it has seen"
        assert before == [iteration]


def test_checks_do_not_count_updates():
    actor = make_actor().eval()
    with torch.inference_mode():
        actor(observe(NUM_ENVS))
        actor.update_normalization(observe(NUM_ENVS))
    assert actor.network.updates == 0
