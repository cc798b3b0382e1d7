"""Local rules under PPO: they see the rollout as the policy saw it and what its actions were worth; no optimiser touches theirs."""

import pytest
import torch

from spiky_rl.hosts.rsl_rl.config import runner_config
from spiky_rl.hosts.rsl_rl.runner import Runner
from spiky_rl.hosts.skrl.config import runner_config as skrl_config
from spiky_rl.learning.base import Rule
from spiky_rl.registry import RegistryError, configure
from spiky_rl.spec import SpecError
from tests.hosts.point_env import PointEnv, config
from tests.hosts.test_rsl_rl_model import rollout

NEURON = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
CONNECTION = {"name": "linear", "gain": 2.0, "offset": 0.25, "spread": 0.5}
NETWORK = {"layers": [12, 10], "steps": 4, "neuron": NEURON, "connection": CONNECTION}


class Witness(Rule):
    """A local rule that changes nothing and remembers what it was called with."""

    local = True

    def change(self, layers, signals, credit, keep):
        self.seen = (list(layers), [s.clone() for s in signals], credit.clone(), keep)


@pytest.mark.parametrize(
    "body", ["local = True", "local = True\n    def chnage(self): pass", "def change(self): pass"]
)
def test_a_rule_that_says_local_and_its_change_come_together(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from spiky_rl.learning.base import Rule\n\nclass Mine(Rule):\n    {body}\n", encoding="utf-8"
    )
    with pytest.raises(RegistryError, match="mine.py, line 3: TypeError: Mine: a local rule defines change"):
        configure("learning", f"{path}:Mine", "learning")


def runner(rule, stateful, critic=None) -> Runner:
    torch.manual_seed(0)
    return Runner(PointEnv(8), config({**NETWORK, "stateful": stateful, "learning": rule}, critic=critic))


@pytest.mark.parametrize("stateful", [False, True])
def test_a_rule_sees_the_spikes_of_the_rollout_and_its_advantages(stateful):
    run = runner(f"{__file__}:Witness", stateful)
    for _ in range(2):  # the second rollout starts in the middle of episodes
        spikes = []
        handle = run.alg.actor.network.layers[-1].register_forward_hook(
            lambda *a: spikes.append(a[2][0][0].clone())
        )
        run.alg.actor.network.run_on("torch")
        # layer by layer, so that the hook is called
        run.alg.actor.network._plain = False
        rollout(run)
        handle.remove()
        advantages, dones = run.alg.storage.advantages.clone(), run.alg.storage.dones.clone()
        with torch.no_grad():
            for group in run.alg.optimizer.param_groups:
                group["lr"] = 0.0  # the rule comes after the update: keep the weights of the rollout
        run.alg.update()
    layers, signals, credit, keep = run.alg.actor.network.learning.seen
    assert len(layers) == 2 and len(signals) == 3
    expected = torch.stack(spikes)  # [T, K, B, N]
    found = signals[-1] if stateful else signals[-1][0].unflatten(1, (24, 8)).transpose(0, 1)
    assert expected.sum() > 50 and torch.equal(found, expected)
    assert credit.mean().abs() < 1e-5 and credit.std() == pytest.approx(1.0, rel=1e-3)
    order = credit.view(24, 8)
    assert torch.allclose(order, (advantages - advantages.mean()).squeeze(-1) / advantages.std(), atol=1e-4)
    if stateful:
        assert torch.equal(keep[1:], 1.0 - dones[:-1].squeeze(-1).float()) and keep[0].all()
    else:
        assert keep is None


@pytest.mark.parametrize("rule", ["stdp", "rstdp"])
@pytest.mark.parametrize("stateful", [False, True])
def test_ppo_moves_the_readout_and_the_rule_the_layers_it_names(rule, stateful):
    run = runner({"name": rule, "layers": [1]}, stateful)
    names = ("layers.0.connection.weight", "layers.1.connection.weight", "decoder.readout.weight")
    before = {k: v.clone() for k, v in run.alg.actor.network.named_parameters() if k in names}
    assert [p.requires_grad for k, p in run.alg.actor.network.named_parameters() if k in names] == [
        True,
        False,
        True,
    ]
    rollout(run)
    rule_alone = run.alg.actor.network.learn
    calls = []
    run.alg.actor.network.learn = lambda *a: calls.append(a)
    run.alg.update()
    parameters = dict(run.alg.actor.network.named_parameters())
    moved = [k for k in names if not torch.equal(parameters[k], before[k])]
    assert moved == [names[0], names[2]], "the optimiser leaves the rule's layer alone"
    rule_alone(*calls[0])
    assert not torch.equal(parameters[names[1]], before[names[1]])
    assert parameters[names[1]].isfinite().all()


class Agent:
    """As much of a specification as a check reads."""

    def __init__(self, critic_network=None, network=None):
        self.runner = {"actor": {}, "critic": {}, "algorithm": {}, "num_steps_per_env": 8}
        self.network, self.critic_network, self.origins = network, critic_network, {}


def test_a_critic_does_not_learn_by_what_actions_were_worth():
    network = configure(
        "networks", {"name": "feedforward", "layers": [8], "learning": "rstdp"}, "critic_network"
    )
    with pytest.raises(SpecError, match=r"agent\.critic_network\.learning: 'rstdp' is for actors"):
        runner_config(Agent(critic_network=network))


def test_skrl_refuses_local_rules_by_name():
    network = configure("networks", {"name": "feedforward", "layers": [8], "learning": "stdp"}, "network")
    with pytest.raises(
        SpecError, match=r"agent\.network\.learning: 'stdp' is not available with --rl_library skrl"
    ):
        skrl_config(Agent(network=network))
