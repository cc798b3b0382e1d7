"""Beside eventax: the same nets' spikes and gradients from another library, which differentiates its solver's steps."""

from dataclasses import replace

import numpy as np
import pytest

from tests.exact.nets import GOLDEN, NETS, OUTPUT, RECURRENT

eventax = pytest.importorskip(
    "eventax", reason="eventax is not installed: pip install eventax, with jax on the CPU"
)

TOLERANCE = 1e-11
MOST_SPIKES, MOST_EVENTS = 20, 80
LEAKY = {"thresh": 1.0, "tmem": 20.0, "tsyn": 5.0, "vreset": 0.0}
REGULAR_SPIKING = {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0, "v_thresh": 30.0, "tau_syn": 5.0}
# eventax starts this neuron at its reset, which is 5 mV above our rest, and at u = b v
CASES = {
    "lif": (GOLDEN, "LIF", LEAKY, 0.0),
    "lif, recurrent": (RECURRENT, "LIF", LEAKY, 0.0),
    "izhikevich": (
        replace(NETS["izhikevich"], duration=30.0),
        "Izhikevich",
        REGULAR_SPIKING,
        [[5.0] * 3, [1.0] * 3],
    ),
}


def theirs(net, name, options):
    """Loss, output's spike times and gradient of the weights, in our layout."""
    import diffrax
    import equinox
    import jax
    import optimistix
    from eventax import neuron_models
    from eventax.evnn import EvNN

    jax.config.update("jax_enable_x64", True)
    inputs = len(net.inputs)
    # theirs is [neurons + inputs, neurons]
    weights = np.roll(net.matrix(), -inputs, axis=1).T
    network = EvNN(
        getattr(neuron_models, name),
        len(weights.T),
        net.duration,
        inputs,
        key=jax.random.PRNGKey(0),
        wmask=jax.numpy.array(weights != 0.0, float),
        solver=diffrax.Dopri8(),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
        root_finder=optimistix.Newton(1e-10, 1e-10),
        solver_stepsize=0.01,
        dtype=jax.numpy.float64,
        max_event_steps=MOST_EVENTS,
        init_weights=jax.numpy.array(weights),
        init_bias=0.0,
        **options,
    )

    def loss(network):
        times = network.spikes_until_t(jax.numpy.array(net.inputs), net.duration - 1.0, MOST_SPIKES)[OUTPUT]
        found = times[: len(net.targets)]
        return 0.5 * ((found - jax.numpy.array(net.targets)) ** 2).sum(), times

    (value, times), gradient = equinox.filter_value_and_grad(loss, has_aux=True)(network)
    found = np.roll(np.asarray(gradient.neuron_model.weights).T, inputs, axis=1)
    return float(value), np.asarray(times), found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_spikes_and_gradients_are_those_of_eventax(name):
    net, model, options, start = CASES[name]
    value, times, gradient = theirs(net, model, options)
    solution = net.solve(start=start)
    own = net.gradient_of(solution).weights
    count = len(net.targets)
    assert times[:count] == pytest.approx(solution.times(OUTPUT)[:count], abs=1e-7)
    assert value == pytest.approx(net.loss_of(solution), rel=1e-7)
    present = net.matrix() != 0.0
    assert gradient[present] == pytest.approx(own[present], rel=1e-6, abs=1e-7)
