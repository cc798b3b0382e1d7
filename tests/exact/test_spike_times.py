"""SpikeProp: golden derivatives, agreement with the adjoint and with finite differences, and XOR in spike times."""

import math

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import solve_network
from spiky_rl.exact.spike_times import SpikeTimeLayer, SrmKernels, compute_spike_times

EXACT = SrmKernels(floor=0.0)
NO_DELAY = torch.zeros(1, dtype=torch.float64)
GOLDEN_TIMES = [0.0, 2.0, 4.0]
GOLDEN_WEIGHTS = [0.6, 0.5, 0.4]


def doubles(values, *shape):
    return torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_()


def test_the_golden_spike_time_and_its_derivatives():
    times, weights = doubles(GOLDEN_TIMES, 1, 3, 1), doubles(GOLDEN_WEIGHTS, 1, 3, 1)
    found = compute_spike_times(times, weights, NO_DELAY, EXACT)
    to_times, to_weights = torch.autograd.grad(found.sum(), (times, weights))
    assert found.item() == pytest.approx(4.642210282230, abs=1e-11)
    assert to_weights.flatten().tolist() == pytest.approx([-3.68534158, -2.79128675, -0.90281438], abs=1e-8)
    assert to_times.flatten().tolist() == pytest.approx([0.16043947, 0.32883294, 0.51072760], abs=1e-8)


def random_layer(kernels, seed=0):
    """Times [3, 4, 2], weights [5, 4, 3] and delays [3]; one spike is missing."""
    generator = torch.Generator().manual_seed(seed)
    times = 12.0 * torch.rand(3, 4, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64) + 0.5
    times[0, 0, 1] = math.inf
    weights[0] = -weights[0]
    inputs = times, 0.4 * weights, torch.tensor([1.0, 2.5, 6.0], dtype=torch.float64)
    return inputs, lambda *given: compute_spike_times(*given, kernels)


def test_inputs_that_all_come_later_shift_every_spike():
    (times, weights, delays), layer = random_layer(SrmKernels(floor=0.0, spikes=4))
    times.requires_grad_()
    found = layer(times, weights, delays)
    alive = found.isfinite()
    (gradient,) = torch.autograd.grad(found[alive].sum(), times)
    assert gradient.sum().item() == pytest.approx(alive.sum().item(), rel=1e-10)
    assert torch.allclose(layer(times + 3.0, weights, delays)[alive], found[alive] + 3.0, atol=1e-10)
    assert gradient[0, 0, 1] == 0.0


@pytest.mark.parametrize("spikes", [1, 4])
def test_gradients_are_those_of_finite_differences(spikes):
    inputs, layer = random_layer(SrmKernels(floor=0.0, spikes=spikes))
    alive = layer(*inputs).isfinite()
    assert alive[..., -1].any() and not alive[..., 0].all(), "full, and silent neurons"

    def loss(*given):
        rates = torch.arange(1.0, alive.sum().item() + 1, dtype=torch.float64)
        return (layer(*given)[alive] * rates).sum()

    leaves = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for place, gradient in enumerate(gradients):
        generator = torch.Generator().manual_seed(place)
        direction = torch.randn(inputs[place].shape, generator=generator, dtype=torch.float64)

        def at(step, place=place, direction=direction):
            return loss(*(x + step * direction if i == place else x for i, x in enumerate(inputs))).item()

        near = (8 * (at(1e-5) - at(-1e-5)) - (at(2e-5) - at(-2e-5))) / 12e-5
        assert (gradient * direction).sum().item() == pytest.approx(near, rel=1e-7)


def leaky(weights, times):
    """Our leaky neuron with the time constant of an alpha kernel's rise for membrane and synapse, driven by the same spikes."""
    settings = {"name": "lif", "tau": 7.0, "input_gain": "ode", "reset": "subtract"}
    neuron = registry.configure("neurons", settings, "neuron").build()
    return solve_network(neuron, math.e * weights.numpy(), times, 50.0, tau_synapse=7.0)


def test_the_golden_derivative_is_that_of_the_adjoint():
    weights = torch.tensor([[*GOLDEN_WEIGHTS, 0.0]], dtype=torch.float64)
    solution = leaky(weights, [[time] for time in GOLDEN_TIMES])
    gradients = solution.gradient([1.0] + [0.0] * (len(solution.spikes) - 1))
    assert solution.times(0)[0] == pytest.approx(4.642210282230, abs=1e-10)
    found = math.e * gradients.weights[0, :3]
    assert found == pytest.approx([-3.68534158, -2.79128675, -0.90281438], abs=1e-8)
    assert gradients.input_times == pytest.approx([0.16043947, 0.32883294, 0.51072760], abs=1e-8)


def test_two_layers_with_several_spikes_are_leaky_neurons_with_equal_time_constants():
    kernels = SrmKernels(floor=0.0, spikes=12)
    times = doubles([1.0, 3.0, 9.0, 12.0], 1, 2, 2)
    hidden, output = doubles([0.8, 0.5, 0.4, 0.9], 2, 2, 1), doubles([0.7, 0.6], 1, 2, 1)
    found = compute_spike_times(
        compute_spike_times(times, hidden, NO_DELAY, kernels), output, NO_DELAY, kernels
    )[0, 0]
    matrix = torch.zeros(3, 5, dtype=torch.float64)
    matrix[:2, :2], matrix[2, 2:4] = hidden[..., 0].detach(), output[0, :, 0].detach()
    solution = leaky(matrix, times[0].tolist())
    assert len(solution.times(2)) >= 2
    alive = found.isfinite()
    assert found[alive].tolist() == pytest.approx(solution.times(2), abs=1e-8)
    rates = torch.arange(1.0, alive.sum().item() + 1, dtype=torch.float64)
    (found[alive] * rates).sum().backward()
    numbers = iter(rates.tolist())
    gradients = solution.gradient([next(numbers) if s.neuron == 2 else 0.0 for s in solution.spikes])
    assert hidden.grad is not None and output.grad is not None and times.grad is not None
    exact = math.e * gradients.weights
    assert hidden.grad.flatten().tolist() == pytest.approx(exact[:2, :2].ravel(), rel=1e-7)
    assert output.grad.flatten().tolist() == pytest.approx(exact[2, 2:4], rel=1e-7)
    assert times.grad[0].numpy() == pytest.approx(np.array(gradients.input_times), rel=1e-7)


def test_the_slope_that_gradients_divide_by_has_a_floor():
    times, weights = doubles([0.0], 1, 1, 1), doubles([1.0 + 1e-9], 1, 1, 1)
    steep, floored = (
        torch.autograd.grad(
            compute_spike_times(times, weights, NO_DELAY, SrmKernels(floor=floor)).sum(), weights
        )[0]
        for floor in (0.0, 0.1)
    )
    assert steep.item() < -1e4
    assert floored.item() == pytest.approx(-10.0, rel=1e-3)


def test_a_duration_that_is_no_multiple_of_the_resolution_is_searched_to_its_end():
    times, weights = doubles([0.0], 1, 1, 1), doubles([1.5], 1, 1, 1)
    exact = compute_spike_times(times, weights, NO_DELAY, EXACT)
    for duration, resolution in ((7.0, 100.0), (5.1, 5.0)):
        kernels = SrmKernels(duration=duration, resolution=resolution, floor=0.0)
        assert compute_spike_times(times, weights, NO_DELAY, kernels).item() == pytest.approx(exact.item())


def test_silent_neurons_have_no_gradient_and_are_revived():
    layer = SpikeTimeLayer(2, 2, torch.Generator().manual_seed(0), delays=[1.0], signs=[1.0, -1.0])
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([[[0.2], [-0.005]], [[3.0], [-0.5]]]))
    times = torch.tensor([[[0.0], [1.0]], [[2.0], [math.inf]]], dtype=torch.float64)
    found = layer(times)
    assert found[:, 0].isinf().all() and found[:, 1].isfinite().all()
    found[found.isfinite()].sum().backward()
    assert layer.weights.grad is not None
    assert not layer.weights.grad[0].any() and layer.weights.grad[1].any()
    layer.raise_silent_weights(found)
    assert layer.weights.flatten().tolist() == pytest.approx([0.21, 0.0, 3.0, -0.5])


def test_without_input_spikes_all_neurons_are_silent():
    layer = SpikeTimeLayer(3, 2, torch.Generator().manual_seed(0))
    found = layer(torch.zeros(4, 3, 0))
    assert found.shape == (4, 2, 1) and found.isinf().all()
    found.nan_to_num(posinf=0.0).sum().backward()
    assert layer.weights.grad is not None and not layer.weights.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.ones(1, 2, 1)}, r"weights: expected the shape \[J, I, M\]"),
        ({"times": torch.tensor([[[-1.0]]])}, "times: -1.0 is out of range"),
        ({"times": torch.tensor([[[math.nan]]])}, "times: nan is out of range"),
        ({"delays": torch.tensor([-2.0])}, "delays: -2.0 is out of range"),
        ({"weights": torch.tensor([[[math.nan]]])}, "weights: expected finite numbers"),
        ({"weights": torch.ones(1, 1, 1, dtype=torch.long)}, "weights: torch.int64 given"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    given = {"times": torch.zeros(1, 1, 1), "weights": torch.ones(1, 1, 1), "delays": torch.zeros(1)}
    with pytest.raises(registry.UserError, match=message):
        compute_spike_times(**(given | change), kernels=EXACT)


def test_kernels_without_time_are_refused():
    with pytest.raises(registry.UserError, match="tau: 0.0 is out of range"):
        SrmKernels(tau=0.0)
