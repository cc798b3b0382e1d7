"""Recurrent loops, bits of spikes, and work in chunks on a CUDA device: what the CPU's kernels compute."""

import itertools

import pytest
import torch

from spiky_rl.kernels import dispatch
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import RecurrentFeedback
from tests.devices import device  # noqa: F401  # a fixture
from tests.kernels.cases import CPU, CUPY, compare, configured, distinct, inputs, run, vocabulary
from tests.kernels.test_recurrent import FEEDBACKS, NEURONS, K, case, equal, keep, relative

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

GRADIENT = 1e-5
"""Relative to the largest: cuBLAS and the CPU add the weights' gradients in orders of their own."""
OUTPUT = 1e-5
"""Of graded outputs, which are multiplied: on the CPU with one rounding."""


def results(backend, device, neuron, feedback, width, resets=True, state=True, **settings):
    """Outputs, states and gradients on the CPU, of equal currents and weights."""
    built, ops, parameters, loop, tensors = case(neuron, feedback, width, **settings)
    current, synapses, *states = (x.detach().to(device).requires_grad_() for x in tensors)
    # decays by the CPU whatever the device: another exp gives others
    values = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in parameters())
    mask = keep().to(device) if resets else None
    given = (current, K, tuple(states) if state else None, values, mask, None)
    output, last = dispatch.unroll(backend, built, ops, *given, loop, synapses)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(8)).to(device)
    loss = (output * weights).sum() + sum((s * s * 0.1).sum() for s in last)
    wanted = [current, synapses, *(states if state else ()), *parameters.parameters()]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return output.detach().cpu(), [s.detach().cpu() for s in last], [g.cpu() for g in gradients]


def on_the_cpu(*arguments, **settings):
    """By the CPU's own kernels, also where the host stands in for a device and its tensors go to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.list_compiled_backends(), "cpu", "cpu")
        before = CUPY.launches.total()
        found = results("cpu", "cpu", *arguments, **settings)
    assert CUPY.launches.total() == before, "the device's kernels computed what they are compared with"
    return found


def require_same(found, expected, graded=False):
    """Spikes and states to the bit, gradients nearly."""
    (output, last, gradients), (wanted, states, others) = found, expected
    assert wanted.any(), "silence proves little"
    assert relative(output, wanted) < OUTPUT if graded else torch.equal(output, wanted), "outputs"
    assert graded or equal(last, states), "states"
    for i, (a, b) in enumerate(zip(gradients, others, strict=True)):
        assert relative(a, b) < GRADIENT, f"gradient {i}"


WIDEST = [("learned", "delays", 300), ("sigma_delta", "filtered", 300)]
"""Of the widest layers, for which the host needs half a second each, those of the fast tests."""


@pytest.mark.parametrize(
    ("neuron", "feedback", "width"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case[2] == 300 and case not in WIDEST))
        for case in itertools.product(NEURONS, FEEDBACKS, [5, 37, 130, 300])
    ],
)
def test_spikes_and_states_are_the_cpus_to_the_bit_and_gradients_nearly(neuron, feedback, width, device):
    found = results("cupy", device, neuron, feedback, width)
    require_same(found, on_the_cpu(neuron, feedback, width), graded=neuron == "sigma_delta")


@pytest.mark.parametrize(
    "settings", [{"constant": True}, {"cut": True}, {"resets": False}, {"state": False}], ids=str
)
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_a_constant_current_a_cut_and_a_start_from_rest_are_the_cpus_too(feedback, settings, device):
    found = results("cupy", device, "alif", feedback, 37, **settings)
    require_same(found, on_the_cpu("alif", feedback, 37, **settings))


def test_a_loop_is_a_launch_forward_and_one_backward(device):
    before = CUPY.launches.total()
    results("cupy", device, "alif", "delays", 37)
    assert CUPY.launches.total() == before + 2


def limit_scratch(patch, floats):
    """Let an adjoint have so much scratch memory and no share of the device's."""
    patch.setattr(cupy_backend, "SCRATCH_FLOATS", floats)
    patch.setattr(cupy_backend, "SCRATCH_SHARE", 0.0)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_an_adjoint_in_chunks_of_rows_is_the_whole_ones(feedback, rows, device, monkeypatch):
    whole = results("cupy", device, "alif", feedback, 37)
    built, *_, (current, *_) = case("alif", feedback, 37)
    time, _, batch, width = current.shape
    limit_scratch(monkeypatch, rows * time * K * width * (len(built.states) + 4))
    before = CUPY.launches.total()
    parts = results("cupy", device, "alif", feedback, 37)
    assert CUPY.launches.total() == before + 1 + -(-batch // rows)
    require_same(parts, whole)


def test_an_adjoint_in_chunks_of_lanes_is_the_whole_ones(device, monkeypatch):
    neuron = configured("alif", True, tau=2.0)
    parameters, tensors = distinct(neuron, 200), inputs(neuron, 7, 200)
    whole = run("cupy", neuron, parameters, tensors, device=device)
    limit_scratch(monkeypatch, 1)
    before = CUPY.launches.total()
    parts = run("cupy", neuron, parameters, tensors, device=device)
    assert CUPY.launches.total() == before + 1 + cupy_backend.count_blocks(7 * 200)
    compare(parts, whole, GRADIENT)


def check_much_shared_memory(device):
    built = configured("sigma_delta", False)
    loop, width = RecurrentFeedback(12, binary=not built.graded), 1000
    assert cupy_backend.count_shared_bytes(width, loop) > cupy_backend.SHARED_BYTES
    g = torch.Generator().manual_seed(1)
    current, synapses = torch.randn(2, 2, 2, width, generator=g), torch.zeros(12 * width, width)
    synapses[torch.arange(12 * width), torch.arange(12 * width) % width] = 0.25
    outputs = []
    for backend, place in (("cupy", device), ("torch", "cpu")):
        given = (built, vocabulary(), current.to(place), 2, None, distinct(built, width)())
        within = {"feedback": loop, "synapses": synapses.to(place)}
        with torch.no_grad():
            outputs.append(dispatch.unroll(backend, *given, **within)[0].cpu())
    assert outputs[1].any() and relative(*outputs) < OUTPUT


def test_threads_may_share_more_than_a_block_has_without_asking(device):
    check_much_shared_memory(device)


@pytest.mark.gpu
def test_threads_may_share_as_much_on_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"it takes two CUDA devices, torch sees {torch.cuda.device_count()}")
    assert torch.cuda.current_device() == 0
    check_much_shared_memory("cuda:1")


@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (7, 130), (300, 1000)], ids=str)
def test_spikes_are_kept_as_the_cpus_bits_and_come_back(shape, device):
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    bits = CUPY.pack(x.to(device))
    assert torch.equal(bits.cpu(), CPU.pack(x))
    assert torch.equal(CUPY.unpack(bits, shape[1]).cpu(), x)
