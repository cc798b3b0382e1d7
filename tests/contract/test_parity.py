"""Every neuron with every surrogate on every compiled backend is the torch reference: outputs, states and gradients.

Bit for bit where a step is arithmetic alone. Where it takes exponentials, tangents or roots, whose last bits differ, steps
are compared one at a time from the reference's own states, so that no difference grows.
"""

import itertools
import re

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch, programs
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks._layer import NeuronParameters

TIME, STEPS, BATCH, WIDTH = 2, 5, 11, 37
"""Odd sizes: some chunks of lanes are full, and the last vector never is."""
LEAST = 0.05
"""Share of outputs that are not zero."""
COMPILED = ("cpu", pytest.param("cupy", marks=pytest.mark.gpu))
NEURONS, SURROGATES = registry.list_names("neurons"), registry.list_names("surrogates")
FAST = [
    *((neuron, "arctangent", True) for neuron in NEURONS),
    *(("lif", surrogate, False) for surrogate in ("arctangent", "triangle")),
]
"""Every neuron with the usual surrogate and with parameters per neuron, and two surrogates with the usual neuron."""
ALL = [
    pytest.param(
        *case,
        marks=[] if case in FAST else pytest.mark.slow,
        id="-".join((*case[:2], "per-neuron" if case[2] else "numbers")),
    )
    for case in itertools.product(NEURONS, SURROGATES, [False, True])
]
TOLERANCES = {"hodgkin_huxley": 2e-5, "quadratic": 3e-6}
"""Of states and gradients, relative to the largest; 1e-6 for all others. The reference itself, in float32, differs from float64 by
9e-6 for Hodgkin-Huxley's ten sub-steps and by 3e-6 for the quadratic neuron's upstroke; the kernels differ from it by 1.1e-5
and 2.1e-6. Gradients of parameters are sums over the batch: eleven terms in another order, 4 times as much."""


def compiled(backend):
    """The backend, or a skip that says why."""
    try:
        return dispatch.require_backend(backend)
    except registry.RegistryError as error:
        return pytest.skip(str(error))


def case(neuron, surrogate, learned):
    """A neuron, its vocabulary, and its parameters: numbers, or distinct values for every neuron."""
    cls = registry.resolve("neurons", neuron)
    settings = {"name": neuron, "learn": list(cls.params) if learned else []}
    built = registry.configure("neurons", settings, "neuron").build()
    parameters = NeuronParameters(built, WIDTH)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in parameters.parameters():
            p.add_(0.2 * torch.rand(p.shape, generator=generator) - 0.1)
    return built, TorchOps(registry.configure("surrogates", surrogate, "surrogate").build()), parameters


def inputs(built, ops, parameters):
    """Current, states and mask; the current is doubled until the neuron fires."""
    g = torch.Generator().manual_seed(4)
    current = 2.0 * torch.randn(TIME, STEPS, BATCH, WIDTH, generator=g) + 1.0
    state = tuple(0.1 * torch.randn(BATCH, WIDTH, generator=g) for _ in built.states)
    keep = (torch.rand(TIME, BATCH, generator=g) > 0.3).float()
    with torch.no_grad():
        for _ in range(6):
            y, _ = dispatch.unroll("torch", built, ops, current, STEPS, state, parameters(), keep)
            if (y != 0).float().mean() > LEAST:
                return current, state, keep
            current = 2.0 * current
    raise AssertionError("a silent neuron proves nothing")


def run(backend, built, ops, parameters, current, state, keep, device="cpu"):
    """Outputs, last states, and the gradients of current, states and parameters."""
    current, keep = current.to(device).requires_grad_(), keep.to(device)
    state = tuple(s.to(device).requires_grad_() for s in state)
    # parameters by the CPU whatever the device: another exp gives other decays
    values = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in parameters())
    y, last = dispatch.unroll(backend, built, ops, current, current.shape[1], state, values, keep)
    g = torch.Generator().manual_seed(5)
    loss = sum((t * torch.randn(t.shape, generator=g).to(device)).sum() for t in (y, *last))
    wanted = [current, *state, *parameters.parameters()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return y.detach().cpu(), [s.detach().cpu() for s in last], [x.cpu() for x in grads]


def exact(built, ops, parameters):
    """Whether the step computes its lanes by arithmetic alone."""
    text = programs.PROGRAMS[programs.prepare_call(built, ops, parameters(), WIDTH).key].text
    forward = re.sub(r"INLINE void \w+_adjoint.*?\n}", "", text, flags=re.DOTALL)
    return not re.search(r"lane_(exp|tanh|tan|sqrt)", forward)


def near(a, b, tolerance):
    return (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6)


def check(found, expected, bits, tolerance):
    (y, last, grads), (z, wanted, references) = found, expected
    assert torch.equal(y, z), "outputs"
    for a, b in zip(last, wanted, strict=True):
        assert torch.equal(a, b) if bits else near(a, b, tolerance), "states"
    summed = 2 + len(wanted) - 1
    for i, (a, b) in enumerate(zip(grads, references, strict=True)):
        assert near(a, b, tolerance if i < summed else 4 * tolerance), f"gradient {i}"


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("neuron", "surrogate", "learned"), ALL)
def test_compiled_neurons_are_the_reference(neuron, surrogate, learned, backend):
    module = compiled(backend)
    device = "cuda" if backend == "cupy" else "cpu"
    built, ops, parameters = case(neuron, surrogate, learned)
    bits = exact(built, ops, parameters)
    current, state, keep = inputs(built, ops, parameters)
    # CUDA's exp, tanh and tan: 2 to 4 units in the last place by its documentation, a CPU's 1 to 2
    tolerance = TOLERANCES.get(neuron, 1e-6) * (1 if bits or backend == "cpu" else 2)
    launched = sum(module.launches.values())
    if bits:
        found = run(backend, built, ops, parameters, current, state, keep, device)
        check(found, run("torch", built, ops, parameters, current, state, keep), bits, tolerance)
    else:
        for t, k in itertools.product(range(TIME), range(STEPS)):
            one = (current[t : t + 1, k : k + 1], state, keep[t : t + 1])
            expected = run("torch", built, ops, parameters, *one)
            check(run(backend, built, ops, parameters, *one, device), expected, bits, tolerance)
            state = tuple(expected[1])
    assert sum(module.launches.values()) >= launched + 2, "the backend ran, forward and backward"
