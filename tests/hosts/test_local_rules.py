"""Local rules under PPO: they see the rollout as the policy saw it and what its actions were worth; no optimiser touches theirs."""

import functools

import pytest
import torch

from spiky_rl.config.registry import RegistryError, configure
from spiky_rl.config.spec import SpecError
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.learners.skrl.config import make_runner_cfg as skrl_config
from spiky_rl.learning.base import LearningRule
from tests.hosts.point_env import PointEnv, config
from tests.hosts.test_rsl_rl_model import rollout

NEURON = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
CONNECTION = {"name": "linear", "gain": 2.0, "offset": 0.25, "spread": 0.5}
NETWORK = {"layers": [12, 10], "steps": 4, "neuron": NEURON, "connection": CONNECTION}


class Witness(LearningRule):
    """A local rule that changes nothing and remembers what it was called with."""

    is_local = True

    def apply_weight_change(self, layers, signals, credit, keep):
        self.seen = (list(layers), [s.clone() for s in signals], credit.clone(), keep)


@pytest.mark.parametrize(
    "body",
    [
        "is_local = True",
        "is_local = True\n    def apply_weight_chnage(self): pass",
        "def apply_weight_change(self): pass",
    ],
)
def test_a_rule_that_says_local_and_its_change_come_together(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from spiky_rl.learning.base import Rule\n\nclass Mine(Rule):\n    {body}\n", encoding="utf-8"
    )
    with pytest.raises(RegistryError, match="mine.py, line 3: TypeError: Mine: is_local must be True"):
        configure("learning", f"{path}:Mine", "learning")


def runner(rule, stateful, encoder="direct") -> RslRlRunner:
    torch.manual_seed(0)
    network = {**NETWORK, "stateful": stateful, "learning": rule, "encoder": encoder}
    settings = config(network)
    settings["actor"]["obs_normalization"] = True
    return RslRlRunner(PointEnv(8), settings)


POISSON = {"name": "population", "mode": "poisson", "fields": 4}


@pytest.mark.parametrize("encoder", ["direct", "rate", POISSON], ids=["direct", "rate", "population"])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_rule_sees_the_spikes_of_the_rollout_and_its_advantages(stateful, encoder):
    run = runner(f"{__file__}:Witness", stateful, encoder=encoder)
    network = run.alg.actor.network
    network.set_backend("torch")
    network._can_use_stack = False  # layer by layer, so that the hooks are called
    for _ in range(2):
        # the second rollout starts in the middle of episodes, with a normalisation that has moved
        signals: list[list[torch.Tensor]] = [[], [], []]

        def watch(layer, arguments, results, index):
            signals[index].append(arguments[1][0].clone())
            signals[index + 1] += [results[0][0].clone()] * (index == 1)

        hooks = [
            layer.register_forward_hook(functools.partial(watch, index=i))
            for i, layer in enumerate(network.layers)
        ]
        rollout(run)
        for hook in hooks:
            hook.remove()
        advantages, dones = run.alg.storage.advantages.clone(), run.alg.storage.dones.clone()
        mean = run.alg.actor.obs_normalizer.mean.clone()
        run.alg.update()
        moved = run.alg.actor.obs_normalizer.mean
        assert not torch.equal(mean, moved), "the update moves what the rollout saw"
    layers, seen, credit, keep = network.learning.seen
    assert len(layers) == 2 and len(seen) == 3
    for watched, found in zip(signals, seen, strict=True):
        expected = torch.stack(watched)  # [T, K or 1, B, C]
        found = found if stateful else found[0].unflatten(1, (24, 8)).transpose(0, 1)
        assert expected.abs().sum() > 50 and torch.equal(found, expected)
    assert credit.mean().abs() < 1e-5 and credit.std() == pytest.approx(1.0, rel=1e-3)
    order = credit.view(24, 8)
    assert torch.allclose(order, (advantages - advantages.mean()).squeeze(-1) / advantages.std(), atol=1e-4)
    if stateful:
        assert torch.equal(keep[1:], 1.0 - dones[:-1].squeeze(-1).float()) and keep[0].all()
    else:
        assert keep is None


class Doubling(LearningRule):
    """A local rule that doubles its weights, and notes what they were."""

    is_local = True

    def setup(self, layers, decoder, outputs):
        for layer in layers:
            layer.connection.requires_grad_(False)

    def apply_weight_change(self, layers, signals, credit, keep):
        for layer in layers:
            layer.connection.weight.mul_(2.0)


@pytest.mark.parametrize("stateful", [False, True])
def test_what_a_rule_learns_comes_after_ppo_whose_ratios_are_of_the_weights_that_acted(stateful):
    run = runner(f"{__file__}:Doubling", stateful)
    rollout(run)
    weights = [layer.connection.weight for layer in run.alg.actor.network.layers]
    before, during = [w.clone() for w in weights], []
    log_prob = run.alg.actor.get_output_log_prob

    def watch(actions):
        during.append(all(torch.equal(w, b) for w, b in zip(weights, before, strict=True)))
        return log_prob(actions)

    run.alg.actor.get_output_log_prob = watch
    run.alg.update()
    assert len(during) == 4 and all(during)
    assert all(torch.equal(w, 2.0 * b) for w, b in zip(weights, before, strict=True))


class Interrupted(Doubling):
    """One that Ctrl-C meets at work."""

    def apply_weight_change(self, layers, signals, credit, keep):
        super().apply_weight_change(layers, signals, credit, keep)
        raise KeyboardInterrupt


def test_a_rule_that_is_interrupted_leaves_the_weights_that_acted():
    run = runner(f"{__file__}:Interrupted", False)
    rollout(run)
    before = {name: weight.clone() for name, weight in run.named_weights()}
    with pytest.raises(KeyboardInterrupt):
        run.alg.update()
    assert all(torch.equal(weight, before[name]) for name, weight in run.named_weights())


def test_a_rule_learns_where_torch_compile_wraps_the_actor():
    run = runner({"name": "rstdp", "layers": [1]}, False)
    rollout(run)
    # as PPO.compile, without minutes of a compiler
    run.alg.actor = torch.compile(run.alg.actor, backend="eager")
    weight = run.alg.get_policy().network.layers[1].connection.weight
    before = weight.clone()
    run.alg.update()
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("rule", ["stdp", "rstdp"])
@pytest.mark.parametrize("stateful", [False, True])
def test_ppo_moves_the_readout_and_the_rule_the_layers_it_names(rule, stateful):
    run = runner({"name": rule, "layers": [1]}, stateful)
    names = ("layers.0.connection.weight", "layers.1.connection.weight", "decoder.readout.weight")
    weights = {k: v for k, v in run.alg.actor.network.named_parameters() if k in names}
    before = {k: v.clone() for k, v in weights.items()}
    assert [weight.requires_grad for weight in weights.values()] == [True, False, True]
    rollout(run)
    rule_alone = run.alg.actor.network.apply_local_rules
    calls = []
    run.alg.actor.network.apply_local_rules = lambda *a: calls.append(a)
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
        make_runner_cfg(Agent(critic_network=network))


def test_skrl_refuses_local_rules_by_name():
    network = configure("networks", {"name": "feedforward", "layers": [8], "learning": "stdp"}, "network")
    with pytest.raises(
        SpecError, match=r"agent\.network\.learning: 'stdp': not available with --rl_library skrl"
    ):
        skrl_config(Agent(network=network))
