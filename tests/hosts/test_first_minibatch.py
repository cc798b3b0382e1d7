"""PPO's ratios are 1 before the first step of the optimiser: for every agent, in bfloat16 autocast and under torch.compile."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spiky_rl.config.spec import resolve_agent
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import PPO_AGENTS
from tests.hosts.image_env import ImageEnv
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.test_reservoir import PLASTIC, RESERVOIR
from tests.hosts.test_rsl_rl_model import rollout

ENVS = 8
AGENTS = PPO_AGENTS
SPIKING = [
    name for name in PPO_AGENTS if name not in ("mlp_ppo", "mlp_matched_ppo", "mlp_history_ppo", "gru_ppo")
]
SCHEDULED = {"name": "arctangent", "slope": 2.0, "schedule": [10.0, 6]}


def agent_runner(agent: str, *overrides: str) -> RslRlRunner:
    """An agent's own configuration on the point mass, seen by a camera where its network is convolutional."""
    torch.manual_seed(0)
    images = "conv" in agent
    host = config() | {"obs_groups": {"actor": ["policy"], "critic": ["critic" if images else "policy"]}}
    host["algorithm"] = {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2}
    host.pop("save_interval")
    has_own_network = any(text.startswith("agent.network=") for text in overrides)
    small = ["agent.network.layers=[6,8,16]"] if images and not has_own_network else []
    if "reservoir" in agent:
        small += ["agent.network.control=gain"]  # the search for a rate takes ten seconds
    settings = make_runner_cfg(resolve_agent(agent, "Isaac-Point", host, [*small, *overrides]))
    return RslRlRunner((ImageEnv if images else PointEnv)(ENVS), settings | {"save_interval": 100})


def first_ratios(run: RslRlRunner) -> torch.Tensor:
    """The ratios of the update's first minibatch, as `PPO.update` computes them."""
    alg, ratios = run.alg, []
    model, generators = alg.get_policy(), ("mini_batch_generator", "recurrent_mini_batch_generator")
    log_prob, batches = model.get_output_log_prob, []

    def watch(actions):
        value = log_prob(actions)
        ratios.append((value - batches[-1].old_actions_log_prob.squeeze(-1)).exp().detach())
        return value

    def watched(make):
        def generate(*arguments):
            for batch in make(*arguments):
                batches.append(batch)
                yield batch

        return generate

    model.get_output_log_prob = watch
    for name in generators:
        setattr(alg.storage, name, watched(getattr(alg.storage, name)))
    alg.update()
    return ratios[0]


@pytest.mark.parametrize("agent", SPIKING)
def test_ratios_are_one_in_autocast_for_every_spiking_agent(agent):
    # the reference, whose matrix products heed autocast as those on a GPU do; the CPU's kernels never did
    run = agent_runner(agent, "agent.algorithm.use_mixed_precision=true", "agent.network.backend=torch")
    assert run.alg.use_mixed_precision
    rollout(run)
    ratios = first_ratios(run)
    assert ratios.numel() >= ENVS and torch.allclose(ratios, torch.ones_like(ratios), atol=2e-5)


@pytest.mark.parametrize("agent", [name for name in PPO_AGENTS if name not in SPIKING])
def test_ratios_are_one_for_every_agent_without_spikes(agent):
    run = agent_runner(agent)
    rollout(run)
    ratios = first_ratios(run)
    assert ratios.numel() >= ENVS and torch.allclose(ratios, torch.ones_like(ratios), atol=2e-5)


@pytest.mark.parametrize("critic", [[], ["agent.critic.class_name=RNNModel"]])
def test_ratios_are_one_after_a_reset_between_rollouts(critic):
    """As after playing the policy between two calls of ``learn``."""
    run = agent_runner("lif_stateful_ppo", *critic)
    for _ in range(2):  # the second one begins in other states than zero
        rollout(run)
        run.alg.update()
    for model in run.models:
        model.reset()
    rollout(run)
    first_states = run.alg.storage.saved_hidden_state_c
    assert first_states is None or not any(state[0].any() for state in first_states)
    ratios = first_ratios(run)
    assert torch.allclose(ratios, torch.ones_like(ratios), atol=2e-5)


def test_autocast_does_reach_an_anns_ratios():
    """What the test above would see of a network that ran in bfloat16."""
    run = agent_runner("mlp_ppo", "agent.algorithm.use_mixed_precision=true")
    rollout(run)
    assert (first_ratios(run) - 1.0).abs().max() > 1e-3


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_values_of_a_spiking_critic_are_the_rollouts_in_autocast(backend):
    torch.manual_seed(0)
    run = RslRlRunner(PointEnv(ENVS), config(None, critic={**LIF, "layers": [16], "backend": backend}))
    rollout(run)
    with torch.autocast("cpu", torch.bfloat16):
        values = run.alg.critic(run.alg.storage.observations.flatten(0, 1))
    assert values.dtype == torch.float32
    assert torch.allclose(values, run.alg.storage.values.flatten(0, 1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stateful", [False, True])
def test_ratios_are_one_under_torch_compile(stateful):
    torch.manual_seed(0)
    network = {**LIF, "layers": [16], "stateful": stateful, "surrogate": SCHEDULED}
    run = RslRlRunner(PointEnv(ENVS), config(network) | {"torch_compile_mode": "default"})
    assert type(run.alg.actor) is not type(run.alg.get_policy())
    rollout(run)
    ratios = first_ratios(run)
    assert torch.allclose(ratios, torch.ones_like(ratios), atol=1e-5)


class Waits(TorchDispatchMode):
    """Counts what reads a number from a tensor, for which a program waits on a GPU and which no captured graph can hold."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


NETWORKS = [
    {"name": "feedforward", **LIF, "layers": [16, 12], "stateful": stateful, "surrogate": SCHEDULED, "encoder": encoder}
    for stateful, encoder in itertools.product([False, True], ["direct", "rate", "population", "concat"])
] + [RESERVOIR, PLASTIC]  # fmt: skip


@pytest.mark.parametrize(
    "network", NETWORKS, ids=lambda n: f"{n['name']}-{n.get('encoder')}-{n.get('stateful')}"
)
def test_no_forward_pass_waits_for_the_device(network):
    torch.manual_seed(0)
    run = RslRlRunner(PointEnv(ENVS), config(network))
    actor, obs = run.alg.actor, run.env.get_observations()
    actor.network.set_backend("torch")
    with Waits() as waits:
        actor(actor.add_features(obs))
        actor.network.count_update()
        actor(actor.add_features(obs))
        assert waits.count == 0
        int(torch.ones(()))
    assert waits.count == 1, "the count sees one that is there"
