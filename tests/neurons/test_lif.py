"""LIF against its closed form, against three libraries, and against frozen gradients."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps

TAU, STEPS = 20.0, 50


def run(current, tau=TAU, dtype=torch.float64, **options):
    """Spikes [K, B, N] and potentials after each step for current [K, B, N]."""
    neuron = registry.configure(
        "neurons", {"name": "lif", "tau": tau, "input_gain": "ode", **options}, "neuron"
    ).build()
    ops = TorchOps(registry.configure("surrogates", "fast_sigmoid", "surrogate").build())
    trace = []
    decay = math.exp(-neuron.dt / tau)
    spikes, _ = dispatch.unroll(
        "torch",
        neuron,
        ops,
        current[None],
        current.shape[0],
        (torch.zeros_like(current[0]),),
        (decay, 1.0),
        trace=trace,
    )
    return spikes[0], torch.stack(trace)


@pytest.mark.parametrize(
    ("drive", "interval"), [(1.05, 61), (1.2, 36), (1.5, 22), (2.0, 14), (3.0, 9), (5.0, 5)]
)
def test_interval_under_constant_current_is_the_closed_form(drive, interval):
    spikes, _ = run(torch.full((1000, 1, 1), drive, dtype=torch.float64), reset="zero")
    times = spikes.flatten().nonzero().flatten()
    assert interval == math.ceil(math.log(1 - 1 / drive) / -1 * TAU)
    assert set(times.diff().tolist()) == {interval}


@pytest.mark.parametrize(
    ("drive", "hard", "soft"), [(1.0, 0, 0), (1.2, 27, 27), (2.0, 71, 71), (3.0, 111, 121)]
)
def test_spike_count_in_one_second_is_the_reference(drive, hard, soft):
    current = torch.full((1000, 1, 1), drive, dtype=torch.float64)
    assert run(current, reset="zero")[0].sum() == hard
    assert run(current, reset="subtract")[0].sum() == soft


def test_spike_is_emitted_at_the_threshold_and_reset_in_the_same_step():
    current = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1)
    spikes, potentials = run(current, input_gain="unit")
    assert spikes.flatten().tolist() == [1.0, 0.0]
    assert potentials.flatten().tolist() == [0.0, 0.0]


def random_current(seed=0):
    return 1.5 * torch.rand(STEPS, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("reset", "mechanism"), [("subtract", "subtract"), ("zero", "zero")])
def test_equals_snntorch_leaky_without_reset_delay(reset, mechanism):
    snntorch = pytest.importorskip("snntorch", reason="a test-only oracle")
    tau = -1 / math.log(0.9)
    leaky = snntorch.Leaky(beta=math.exp(-1 / tau), reset_mechanism=mechanism, reset_delay=False)
    # below 1: their soft reset fires twice where the membrane is above threshold even after a reset
    current, membrane = 0.6 * random_current(), torch.zeros(4, 6)
    spikes, potentials = run(current, tau=tau, input_gain="unit", reset=reset)
    for k in range(STEPS):
        theirs, membrane = leaky(current[k], membrane)
        assert torch.equal(theirs, spikes[k])
        assert torch.allclose(membrane, potentials[k], atol=1e-6)
    assert 10 < spikes.sum() < spikes.numel() / 2


def test_equals_spikingjelly_lif_node():
    activation = pytest.importorskip("spikingjelly.activation_based.neuron", reason="a test-only oracle")
    # their decay 1 - 1/tau_steps is ours where exp(-dt/tau) has the same value; input scaled by 1/tau_steps
    tau_steps = 4.0
    node = activation.LIFNode(tau=tau_steps, decay_input=True, v_reset=0.0, v_threshold=1.0)
    current = 3.0 * random_current()
    spikes, potentials = run(current, tau=-1 / math.log(1 - 1 / tau_steps), reset="zero")
    for k in range(STEPS):
        theirs = node(current[k])
        assert torch.equal(theirs, spikes[k])
        assert torch.allclose(node.v, potentials[k], atol=1e-5)
    assert spikes.sum() > 10


def test_equals_norse_lif_feed_forward_step_without_its_synapse():
    lif = pytest.importorskip("norse.torch.functional.lif", reason="a test-only oracle")
    # forward Euler with an instant synapse: dt tau_syn_inv = 1 forgets the current, so i = x
    a = 0.1
    p = lif.LIFParameters(
        tau_syn_inv=torch.tensor(1000.0), tau_mem_inv=torch.tensor(a * 1000.0), v_th=torch.tensor(1.0),
        v_leak=torch.tensor(0.0), v_reset=torch.tensor(0.0),
    )  # fmt: skip
    current = 3.0 * random_current()
    state = lif.LIFFeedForwardState(v=torch.zeros(4, 6), i=torch.zeros(4, 6))
    spikes, potentials = run(current, tau=-1 / math.log(1 - a), reset="zero")
    for k in range(STEPS):
        theirs, state = lif.lif_feed_forward_step(current[k], state, p, dt=0.001)
        assert torch.equal(theirs, spikes[k])
        assert torch.allclose(state.v, potentials[k], atol=1e-5)
    assert spikes.sum() > 10


GOLDEN = {
    # reset, detach: loss, dL/dW, dL/dU
    ("subtract", True): (
        0.18019205,
        [0.10792017, 0.61752046, 0.07755887, 0.66179037],
        [1.53777971, 0.30736384],
    ),
    ("subtract", False): (
        0.18019205,
        [0.09985184, 0.48178330, 0.07488920, 0.51450489],
        [1.53777971, 0.30736384],
    ),
    ("zero", True): (0.02926264, [0.02723319, 0.18688156, 0.01639237, 0.19826523], [0.49583923, 0.12386304]),
    ("zero", False): (0.02926264, [0.02679149, 0.13831915, 0.01581596, 0.14445513], [0.49583923, 0.12386304]),
}


@pytest.mark.parametrize(("reset", "detach"), GOLDEN)
def test_bptt_gradient_is_the_reference_value(reset, detach):
    settings = {
        "name": "lif",
        "tau": -1 / math.log(0.9),
        "input_gain": "unit",
        "reset": reset,
        "detach_reset": detach,
    }
    neuron = registry.configure("neurons", settings, "neuron").build()
    ops = TorchOps(
        registry.configure("surrogates", {"name": "fast_sigmoid", "slope": 10.0}, "surrogate").build()
    )
    weights = torch.tensor([[0.9, -0.3], [0.4, 0.8]], dtype=torch.float64, requires_grad=True)
    readout = torch.tensor([[0.7], [0.6]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1], [0, 0], [1, 1]], dtype=torch.float64)
    current = (x @ weights).view(1, 6, 1, 2)
    spikes, _ = dispatch.unroll(
        "torch", neuron, ops, current, 6, (torch.zeros(1, 2, dtype=torch.float64),), (0.9, 1.0)
    )
    y = torch.zeros(1, dtype=torch.float64)
    for spike in spikes[0, :, 0]:
        y = 0.8 * y + spike @ readout
    loss = 0.5 * (y - 1.5).pow(2).sum()
    loss.backward()
    value, to_weights, to_readout = GOLDEN[reset, detach]
    assert loss.item() == pytest.approx(value, abs=1e-7)
    assert weights.grad.flatten().tolist() == pytest.approx(to_weights, abs=1e-7)
    assert readout.grad.flatten().tolist() == pytest.approx(to_readout, abs=1e-7)
