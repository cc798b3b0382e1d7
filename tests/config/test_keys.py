"""The nearest key is looked for in the whole tree of an agent's keys, not only where the misspelt one stands."""

import pytest

from spiky_rl.config import registry
from spiky_rl.config.early import check_networks
from spiky_rl.config.options import UserError, get_options
from spiky_rl.config.spec import merge_agent
from spiky_rl.run.run_plan import split_overrides

MEANT = {
    "agent.learning_rate=1e-3": "algorithm.learning_rate",
    "agent.lerning_rate=1e-3": "algorithm.learning_rate",
    "agent.init_std=1": "actor.distribution_cfg.init_std",
    "agent.critic.num_steps_per_env=8": "num_steps_per_env",
    "agent.neuron.tau=2": "network.neuron",
    "agent.network.tau=2": "network.neuron.tau",
    "agent.network.neuron.surrogate=arctangent": "network.surrogate",
    "agent.algorithm.gama=0.9": "gamma",
    "agent.network.nueron.tau=2": "neuron",
    "agent.network.neuron.tua=2": "tau",
    "learning_rate=1e-3": "agent.algorithm.learning_rate",
    "network.neuron.tau=2": "agent.network.neuron.tau",
}


@pytest.mark.parametrize("override", MEANT)
def test_the_nearest_key_is_named_wherever_it_stands(override):
    with pytest.raises(UserError) as refused:
        merged = merge_agent("lif_ppo", "Isaac-Cartpole", {}, split_overrides([override])[0])
        check_networks(*merged[1:])
    assert str(refused.value).endswith(f"; did you mean '{MEANT[override]}'?")


def test_a_key_that_is_like_none_is_answered_by_all_that_there_are():
    with pytest.raises(
        UserError, match="agent.zzqq: no such key; known: num_steps_per_env, .*critic_network"
    ):
        merge_agent("lif_ppo", "Isaac-Cartpole", {}, ["agent.zzqq=1"])


@pytest.mark.parametrize("kind", ["neurons", "encoders", "networks", "rules"])
def test_options_and_parts_that_are_read_from_a_file_are_those_that_its_class_declares(kind):
    for name in registry.list_names(kind):
        cls = registry.resolve(kind, name)
        assert set(registry.read_options(kind, name)) <= set(get_options(cls.Options))
        assert registry.read_parts(kind, name) == dict(vars(cls).get("parts", {}))
