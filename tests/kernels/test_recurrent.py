"""The recurrent loop in one call computes what the torch reference computes step by step, and so does its gradient."""

import itertools

import pytest
import torch
from torch.library import opcheck

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch, programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks._layer import NeuronParameters
from tests.kernels import fake_cupy
from tests.kernels.cases import CPU

T, K, B = 3, 4, 21

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

NEURONS = {
    "lif": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
    "learned": {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": ["tau", "threshold"]},
    "alif": {"name": "alif", "tau": 2.0, "input_gain": "unit", "tau_adaptation": 20.0, "adaptation": 0.2},
    "sigma_delta": {"name": "sigma_delta"},
}
FEEDBACKS = {"next step": (1, None), "delays": (3, None), "filtered": (1, 0.75), "both": (2, 0.5)}


def exact(*shape, seed, scale=1.0):
    """Multiples of 1/64: their sums are the same in every order."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * scale * 64).round() / 64


def case(neuron, feedback, width, constant=False, cut=False):
    """A neuron, its parameters, the feedback, and tensors that need a gradient: current, synapses and states."""
    built = registry.configure("neurons", NEURONS[neuron], "neuron").build()
    surrogate = registry.configure("surrogates", "arctangent", "surrogate").build()
    delays, decay = FEEDBACKS[feedback]
    loop = RecurrentFeedback(delays, binary=not built.graded, decay=decay, cut=cut)
    current = exact(T, 1 if constant else K, B, width, seed=1)
    synapses = exact(delays * width, width, seed=2, scale=width**-0.5)
    states = [exact(B, width, seed=3 + i, scale=0.3) for i in range(len(built.states) + loop.states)]
    past = slice(len(built.states), len(built.states) + delays)
    states[past] = [(s > 0).float() for s in states[past]]
    tensors = [x.requires_grad_() for x in (current, synapses, *states)]
    return built, TorchOps(surrogate, 2.0), NeuronParameters(built, width), loop, tensors


def keep():
    found = (torch.rand(T, B, generator=torch.Generator().manual_seed(9)) > 0.4).float()
    found[:, 0], found[:, 1] = 0.0, 1.0
    return found


def both(neuron, feedback, width, resets=True, state=True, **settings):
    """(outputs, states, gradients) of the kernels and of the reference."""
    found = []
    for backend in (dispatch.list_compiled_backends()["cpu"], "torch"):
        built, ops, parameters, loop, (current, synapses, *states) = case(neuron, feedback, width, **settings)
        own, mask = tuple(states) if state else None, keep() if resets else None
        arguments = (built, ops, current, K, own, parameters(), mask, None, loop, synapses)
        output, last = dispatch.unroll(backend, *arguments)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(8))
        loss = (output * weights).sum() + sum((s * s * 0.1).sum() for s in last)
        inputs = [current, synapses, *(states if state else ()), *parameters.parameters()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        found.append((output, last, gradients))
    return found


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()


@pytest.mark.parametrize("width", [5, 33, 128])
@pytest.mark.parametrize(("neuron", "feedback"), list(itertools.product(NEURONS, FEEDBACKS)))
def test_outputs_and_states_are_the_references_to_the_bit_and_gradients_nearly(neuron, feedback, width):
    (output, last, gradients), (wanted, states, expected) = both(neuron, feedback, width)
    assert 0.02 < float((wanted != 0).float().mean()) < 0.98, "neither silent nor saturated"
    graded = neuron == "sigma_delta"  # what returns is then no sum of the weights alone
    assert relative(output, wanted) < 1e-5 if graded else torch.equal(output, wanted)
    assert graded or equal(last, states)
    assert max(relative(a, b) for a, b in zip(gradients, expected, strict=True)) < 2e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"constant": True},
        {"cut": True},
        {"resets": False},
        {"state": False},
        {"state": False, "constant": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_a_constant_current_a_cut_and_a_start_from_rest_are_the_references_too(feedback, settings):
    (output, last, gradients), (wanted, states, expected) = both("alif", feedback, 33, **settings)
    assert torch.equal(output, wanted) and equal(last, states)
    assert max(relative(a, b) for a, b in zip(gradients, expected, strict=True)) < 2e-5


SETTINGS = [{}, {"constant": True}, {"cut": True}, {"state": False}]


def is_fast(neuron, feedback, settings, threads):
    """Whether a case is tried in the fast tests: each neuron with each feedback once, and one of them in every way."""
    return (neuron, feedback) == ("alif", "both") or (threads == 32 and not settings)


@pytest.mark.parametrize(
    ("neuron", "feedback", "settings", "threads"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (not is_fast(*case)), id="-".join(map(str, case)))
        for case in [*itertools.product(NEURONS, FEEDBACKS, SETTINGS, [32, 256])]
    ],
)
def test_cuda_text_gives_the_bits_of_the_cpu_kernels(neuron, feedback, settings, threads, monkeypatch):
    (expected, states, gradients), _ = both(neuron, feedback, 37, **settings)
    monkeypatch.setattr(cupy_backend, "MAX_THREADS", threads)  # fewer than neurons, and more
    with fake_cupy.on_the_host() as cupy:
        (found, last, others), _ = both(neuron, feedback, 37, **settings)
    assert cupy.launches == {"spiky_recurrent_forward": 1, "spiky_recurrent_backward": 1}
    if neuron == "sigma_delta":  # graded output is multiplied, on the CPU with one rounding
        assert relative(found, expected) < 2e-6
    else:
        assert torch.equal(found, expected) and equal(last, states)
    assert max(relative(a, b) for a, b in zip(others, gradients, strict=True)) < 2e-6


def test_a_batch_its_parts_and_two_threads_give_the_same_bits():
    built, ops, parameters, loop, (current, synapses, *states) = case("alif", "both", 70)

    def run(rows):
        own, x = tuple(s.detach()[rows] for s in states), current.detach()[:, :, rows]
        within = {"feedback": loop, "synapses": synapses.detach()}
        return dispatch.unroll("cpu", built, ops, x, K, own, parameters(), **within)[0]

    whole = run(slice(None))
    for rows in (slice(0, 1), slice(3, 20)):
        assert torch.equal(run(rows), whole[:, :, rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = run(slice(None))
        (_, _, gradients), (_, _, expected) = both("learned", "delays", 70)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again, whole)
    assert max(relative(a, b) for a, b in zip(gradients, expected, strict=True)) < 2e-5


def test_a_trace_has_the_potentials_of_every_step():
    for learned in (False, True):
        built, ops, parameters, loop, (current, synapses, *states) = case("alif", "delays", 33)
        traces: list[list[torch.Tensor]] = [[], []]
        with torch.set_grad_enabled(learned):
            arguments = (built, ops, current, K, tuple(states), parameters(), keep())
            dispatch.unroll("torch", *arguments, traces[0], loop, synapses)
            dispatch.unroll("cpu", *arguments, traces[1], loop, synapses)
        assert len(traces[1]) == T * K and equal(traces[1], traces[0])


@pytest.mark.parametrize(
    ("feedback", "neuron"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case != ("both", "learned")))
        for case in itertools.product(FEEDBACKS, ["learned", "sigma_delta"])
    ],
)
def test_the_operators_pass_all_checks_of_torch(neuron, feedback):
    built, ops, parameters, loop, (current, synapses, *states) = case(neuron, feedback, 7)
    call = programs.prepare_call(built, ops, parameters(), 7)
    params = None if call.params is None else call.params.detach().requires_grad_()
    tensors = (current, torch.stack(states).detach().requires_grad_(), params, keep(), synapses)
    others = (call.numbers, K, call.key, loop.delays, loop.decay, loop.binary, loop.cut)
    opcheck(torch.ops.spiky_rl.recurrent.default, (*tensors, *others, True))
    output, last = torch.ops.spiky_rl.recurrent(*tensors, *others, True)
    given = [None if x is None else x.detach() for x in tensors]
    grads = torch.ones_like(output), torch.ones_like(last)
    opcheck(torch.ops.spiky_rl.recurrent_backward.default, (*given, *others, *grads))


@pytest.mark.slow
def test_a_recurrent_network_compiles_into_one_graph_of_the_same_bits():
    settings = {"name": "feedforward", "layers": [14, 9], "steps": K, "stateful": True, "neuron": "alif"}
    # where a CPU multiplies bfloat16 in hardware, the last bit of a sum may tip the rounding of a gradient
    settings |= {"recurrent": "recurrent", "gradient_precision": "float32"}
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "n").build(inputs=11, outputs=3)
    x, found = exact(T, B, 11, seed=4), []
    for model in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        y, last = model(x, network.zero_state(B, x), keep())
        y.square().mean().backward()
        found.append((y, last, [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0]) and equal(found[0][1], found[1][1])
    assert max(relative(a, b) for a, b in zip(found[0][2], found[1][2], strict=True)) < 2e-6


def test_what_does_not_fit_is_refused_before_it_is_read():
    built, ops, parameters, loop, (current, synapses, *states) = case("lif", "delays", 33)

    def run(states, synapses):
        numbers, within = parameters(), {"feedback": loop, "synapses": synapses}
        dispatch.unroll("cpu", built, ops, current, K, tuple(states), numbers, **within)

    with pytest.raises(ValueError, match="synapses: shape"):
        run(states, synapses[:-1])
    with pytest.raises(ValueError, match="states: shape"):
        run(states[:-1], synapses)
