"""Training on weights of 8 bits: what is computed is rounded, what is learned is not."""

import copy

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.registry import RegistryError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.connections._quantization import MAX_MULTIPLE, compute_scales
from spiky_rl.run.checkpoint import check_network
from tests.hosts.point_env import config

INPUTS, OUTPUTS, LAYERS, BATCH = 5, 2, [12, 9], 7
CASES = {
    "plain": {},
    "sparse, Dale's law": {"connection": {"name": "linear", "density": 0.5, "dale": True}, "decoder": "rate"},
    "recurrent": {"recurrent": {"name": "recurrent", "delays": 2}, "stateful": True, "decoder": "linear"},
    "lateral": {"recurrent": "lateral", "decoder": "population_vector"},
    "graded": {"neuron": "sigma_delta", "decoder": "sigma_delta"},
    "first spikes": {"decoder": "first_spike"},
}


def build(quantize="int8", seed=0, **settings):
    torch.manual_seed(seed)
    base = {"name": "feedforward", "layers": LAYERS, "quantize": quantize}
    return registry.configure("networks", {**base, **settings}, "network").build(
        inputs=INPUTS, outputs=OUTPUTS
    )


def observations(seed=1):
    return torch.randn(1, BATCH, INPUTS, generator=torch.Generator().manual_seed(seed))


def links(network):
    """Everything that holds weights, with what they are behind their rounding and in front of it, [inputs, N] each."""
    for layer in network.layers:
        parts = [layer.connection, *([] if layer.recurrent is None else [layer.recurrent])]
        yield [(part.unrounded_weights(), part.synapses()) for part in parts]
    yield [(network.decoder.unrounded_weights(), network.decoder.synapses().t())]


@pytest.mark.parametrize("case", CASES)
def test_weights_in_force_are_whole_multiples_of_a_unit_of_their_neuron(case):
    for group in links(build(**CASES[case])):
        unit = compute_scales(*(exact for exact, _ in group))
        largest = torch.zeros_like(unit)
        for exact, rounded in group:
            number = rounded / unit
            assert torch.allclose(number, number.round(), atol=1e-4) and not torch.equal(exact, rounded)
            assert ((exact - rounded).abs() <= 0.5001 * unit).all()
            largest = torch.maximum(largest, number.abs().amax(0))
        assert torch.allclose(
            largest, torch.full_like(largest, MAX_MULTIPLE)
        ), "the largest weight is the largest integer"


def gradients(network):
    """Features for some observations, and every parameter's gradient."""
    x = observations()
    features, _ = network(x, network.zero_state(BATCH, x) if network.stateful else None)
    features.square().sum().backward()
    return features, [p.grad for p in network.parameters() if p.requires_grad]


@pytest.mark.parametrize("case", CASES)
def test_gradients_pass_the_rounding(case):
    _, found = gradients(build(**CASES[case]))
    assert all(grad is not None and grad.isfinite().all() and grad.abs().sum() > 0.0 for grad in found)


def test_a_gradient_is_that_of_a_network_which_has_the_rounded_weights():
    network = build(recurrent="recurrent")
    other = copy.deepcopy(network)
    with torch.no_grad():
        for layer in other.layers:
            rounded = [(part, part.synapses()) for part in (layer.connection, layer.recurrent)]
            for part, weight in rounded:
                part.weight.copy_(weight)
                part.quantiser = None
        other.readout.weight.copy_(other.decoder.synapses())
        other.decoder.quantiser = None
    (features, found), (expected, wanted) = gradients(network), gradients(other)
    assert torch.equal(features, expected)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_small_steps_add_up_behind_the_rounding():
    network = build()
    connection = next(iter(network.layers)).connection
    before, unit = connection.synapses().detach(), compute_scales(connection.unrounded_weights())
    for _ in range(30):
        with torch.no_grad():
            connection.weight[0, 0] += 0.1 * unit[0]
    after = connection.synapses().detach()
    assert not torch.equal(after[0, 0], before[0, 0]) and torch.equal(after[1:, 1:], before[1:, 1:])


def test_without_it_nothing_is_rounded_and_the_stack_runs_as_one_call():
    from tests.kernels.cases import CPU

    plain, rounded = build("none", backend="cpu"), build(backend="cpu")
    assert all(torch.equal(exact, inside) for group in links(plain) for exact, inside in group)
    x, before = observations(), CPU.launches["stack"]
    with torch.no_grad():
        features = [network(x, None)[0] for network in (plain, build("none", backend="cpu"), rounded)]
    assert CPU.launches["stack"] == before + 2, "the third one's weights are not those that it stores"
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])


def test_checkpoints_hold_the_weights_behind_the_rounding_and_go_both_ways():
    plain, rounded = build("none"), build(seed=1)
    assert plain.state_dict().keys() == rounded.state_dict().keys()
    rounded.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), rounded.parameters(), strict=True))
    build("none", seed=2).load_state_dict(rounded.state_dict())


def test_a_training_goes_on_with_rounding_and_nothing_else_takes_a_checkpoint_for_what_it_is_not(tmp_path):
    host = config() | {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}}
    before, after = (
        resolve_agent("lif_ppo", "Isaac-Point", host, [f"agent.network.quantize={value}"])
        for value in ("none", "int8")
    )
    loaded = {"infos": {"spiky_rl": {"identity": {"spec": before.to_dict()}}}}
    check_network(loaded, after, tmp_path, resume=True)
    with pytest.raises(UserError, match="trained with network.quantize=none, not int8"):
        check_network(loaded, after, tmp_path)


def test_a_copy_rounds_its_own_weights():
    network = build(recurrent="recurrent")
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 3.0
    for ours, theirs in zip(links(network), links(other), strict=True):
        for (_, one), (_, three) in zip(ours, theirs, strict=True):
            torch.testing.assert_close(three, 3.0 * one)


def test_a_connection_whose_weights_are_not_known_is_refused():
    settings = {"name": "feedforward", "quantize": "int8", "connection": "convolutional"}
    with pytest.raises(
        RegistryError, match="network.quantize: int8 is not available for the connection 'convolutional'"
    ):
        registry.configure("networks", settings, "network")
    with pytest.raises(
        RegistryError, match="network.quantize: 'int9' is not allowed; choose from none, int8"
    ):
        registry.configure("networks", {**settings, "quantize": "int9"}, "network")
