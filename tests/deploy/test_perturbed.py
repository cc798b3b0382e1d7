"""The policies that exports are tested with are as trained ones are."""

import pytest
import torch

from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.test_first_minibatch import agent_runner

CHANGED = {
    "lif_population_ppo": ("network.encoder.centre", "network.encoder.log_deviation", "obs_normalizer._mean", "obs_normalizer._std"),
    "lif_plastic_reservoir_ppo": ("network.weight", "network.mean", "network.deviation", "obs_normalizer.count"),
    "lif_rstdp": ("network.layers.0.connection.weight", "network.decoder.readout.bias"),
    "gru_ppo": ("rnn.rnn.weight_hh_l0", "mlp.0.bias"),
}  # fmt: skip


@pytest.mark.parametrize("agent", CHANGED)
def test_every_value_that_training_changes_is_changed_and_by_the_seed_alone(agent):
    fresh = agent_runner(agent).alg.get_policy().state_dict()
    before = {name: values.clone() for name, values in fresh.items()}
    found = [
        perturb_learned_values(agent_runner(agent).alg.get_policy(), seed).state_dict() for seed in (0, 0, 1)
    ]
    for name in CHANGED[agent]:
        first, again, other = (state[name] for state in found)
        assert torch.equal(first, again) and (first.numel() == 1 or not torch.equal(first, other))
        used = before[name] != 0 if name == "network.weight" else torch.ones_like(first, dtype=torch.bool)
        assert (first != before[name])[used].all() and first.isfinite().all()
    for name, values in found[0].items():
        if name.endswith(("_std", "_var", "deviation")) and "log" not in name:
            assert (values > 0).all()


def test_a_bias_that_a_network_does_not_have_stays_zero():
    policy = perturb_learned_values(agent_runner("sigma_delta_ppo").alg.get_policy())
    assert not policy.network.layers[0].connection.bias.any()
