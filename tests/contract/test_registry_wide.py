"""Every neuron, surrogate, encoder, decoder, network and backend that exists is tested here, without a test of its own."""

import itertools
import math
from functools import partial

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.options import get_options
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import is_time_constant


def unavailable(backend: str) -> str | None:
    """Why a backend does not run here; None: it does."""
    try:
        dispatch.require_backend(backend)
    except registry.RegistryError as error:
        return str(error)
    return None


STEPS, BATCH, WIDTH = 40, 5, 3
FEW = 4
"""Steps over which finite differences mean something for a neuron whose upstroke multiplies by up to 12 a step."""
NEURONS = registry.list_names("neurons")
SURROGATES = registry.list_names("surrogates")
ENCODERS = registry.list_names("encoders")
DECODERS = registry.list_names("decoders")
BACKENDS = [name for name in dispatch.list_backends() if unavailable(name) is None]
"""Those that run on this machine's CPU or GPU."""
ON_BACKENDS = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case == ("hodgkin_huxley", "torch")))
    for case in itertools.product(NEURONS, BACKENDS)
]
"""A neuron of many sub-steps takes the reference a second."""


def neuron_and_ops(neuron: str, surrogate: str = "arctangent", soft: bool = False):
    built = registry.configure("neurons", neuron, "neuron").build()
    ops = TorchOps(registry.configure("surrogates", surrogate, "surrogate").build(), soft_spike=soft)
    numbers = []
    for name, param in built.params.items():
        value = built.chosen[name]
        numbers.append(math.exp(-built.dt / value) if is_time_constant(param) else value)
    return built, ops, tuple(numbers)


def place(backend: str) -> dict:
    """Device and type that a backend computes on."""
    if backend == "torch":
        return {"dtype": torch.float64}
    return {"dtype": torch.float32, "device": "cuda" if backend == "cupy" else "cpu"}


def rest(neuron, batch=BATCH, **where):
    return tuple(torch.zeros(batch, WIDTH, **{"dtype": torch.float64, **where}) for _ in neuron.states)


def drive(seed=0, steps=STEPS, **where):
    drawn = torch.rand(
        2, steps, BATCH, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return (3.0 * drawn).to(**{"dtype": torch.float64, **where})


@pytest.mark.parametrize(
    ("neuron", "surrogate"),
    [
        pytest.param(
            *case, marks=[pytest.mark.slow] * (case[0] == "hodgkin_huxley" and case[1] != "arctangent")
        )
        for case in itertools.product(NEURONS, SURROGATES)
    ],
)
def test_coded_gradient_equals_finite_differences_on_the_smooth_primitive(neuron, surrogate):
    graded = registry.resolve("neurons", neuron).graded
    built, ops, numbers = neuron_and_ops(neuron, surrogate, soft=not graded)
    if graded:
        # straight through the threshold is a derivative where every change is sent
        numbers = tuple(0.0 for _ in numbers)
    current = drive(steps=FEW).requires_grad_()

    def forward(x):
        return dispatch.unroll("torch", built, ops, x, FEW, rest(built), numbers)[0]

    # detached resets are constants to the gradient but not to finite differences
    chosen = {**built.chosen, "detach_reset": False}
    if "detach_reset" in built.chosen:
        built = type(built).from_options(**chosen)
    built.chosen = chosen
    weights = torch.randn(
        2, FEW, BATCH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    (gradient,) = torch.autograd.grad((forward(current) * weights).sum(), current)
    direction = torch.randn(current.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        ahead, behind = ((forward(current + sign * h * direction) * weights).sum() for sign in (1, -1))
    measured = (ahead - behind) / (2 * h)
    # the rectangle and the triangle have corners; no sample lies within h of one with this seed
    assert torch.allclose((gradient * direction).sum(), measured, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_primitive_is_one_half_at_threshold_and_has_the_derivative_as_slope(surrogate):
    built = registry.configure("surrogates", surrogate, "surrogate").build()
    ops = TorchOps(built)
    x = torch.linspace(-2.03, 2.04, 101, dtype=torch.float64)
    h = 1e-6
    measured = (built.primitive(ops, x + h, built.slope) - built.primitive(ops, x - h, built.slope)) / (2 * h)
    assert torch.allclose(measured, built.derivative(ops, x, built.slope).expand_as(x), atol=1e-6)
    assert built.primitive(ops, torch.zeros(1), built.slope).item() == pytest.approx(0.5)
    assert built.derivative(ops, torch.zeros(1), built.slope).item() > 0.1


@pytest.mark.parametrize("neuron", NEURONS)
def test_rest_is_a_fixed_point_without_input(neuron):
    built, ops, numbers = neuron_and_ops(neuron)
    nothing = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
    start = built.named_states(*rest(built))
    output, state = built.step(ops, nothing, start, built.named_params(*numbers))
    assert output.abs().max() == 0
    # Hodgkin-Huxley finds its rest by bisection: what is left is a rounding error of 1e-15 mV
    assert all(s.abs().max() < 1e-12 for s in state)


@pytest.mark.parametrize(("neuron", "backend"), ON_BACKENDS)
def test_unroll_of_many_steps_equals_many_unrolls_of_one(neuron, backend):
    built, ops, numbers = neuron_and_ops(neuron)
    where = place(backend)
    current = drive(**where)
    unroll = partial(dispatch.unroll, backend)
    whole, last = unroll(built, ops, current, STEPS, rest(built, **where), numbers)
    state, pieces = rest(built, **where), []
    for t, k in itertools.product(range(2), range(STEPS)):
        piece, state = unroll(built, ops, current[t : t + 1, k : k + 1], 1, state, numbers)
        pieces.append(piece)
    assert torch.equal(whole, torch.cat(pieces, 1).view_as(whole))
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))
    assert whole.sum() > 0


@pytest.mark.parametrize(("neuron", "backend"), ON_BACKENDS)
def test_a_constant_current_is_the_same_current_in_every_step(neuron, backend):
    built, ops, numbers = neuron_and_ops(neuron)
    where = place(backend)
    unroll = partial(dispatch.unroll, backend)
    results = []
    for steps in (1, FEW):
        once = drive(**where)[:, :1].requires_grad_()
        y, last = unroll(built, ops, once.expand(-1, steps, -1, -1), FEW, rest(built, **where), numbers)
        weights = torch.arange(1.0, y.numel() + 1, **where).view_as(y).sin()
        results.append((y, *last, *torch.autograd.grad((y * weights).sum() + last[0].sum(), once)))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6 * float(b.detach().abs().max()))


@pytest.mark.parametrize(("neuron", "backend"), ON_BACKENDS)
def test_reset_mask_equals_a_fresh_start_and_leaves_the_others_alone(neuron, backend):
    built, ops, numbers = neuron_and_ops(neuron)
    where = place(backend)
    current = drive(**where)
    keep = torch.ones(2, BATCH, **where)
    keep[1, 1] = 0.0
    unroll = partial(dispatch.unroll, backend)
    masked, _ = unroll(built, ops, current, STEPS, rest(built, **where), numbers, keep)
    carried, restarted = [], []
    plain, _ = unroll(built, ops, current, STEPS, rest(built, **where), numbers, trace=carried)
    fresh, _ = unroll(built, ops, current[1:], STEPS, rest(built, **where), numbers, trace=restarted)
    assert torch.equal(masked[1, :, 1], fresh[0, :, 1])
    others = [0, 2, 3, 4]
    assert torch.equal(masked[:, :, others], plain[:, :, others])
    carried, restarted = torch.stack(carried[STEPS:]), torch.stack(restarted)
    assert not torch.equal(
        restarted[:, others], carried[:, others]
    ), "the state must matter for the mask to be tested"


@pytest.mark.parametrize(("neuron", "backend"), ON_BACKENDS)
def test_state_that_goes_in_is_never_written_to(neuron, backend):
    built, ops, numbers = neuron_and_ops(neuron)
    where = place(backend)
    state = tuple(torch.full((BATCH, WIDTH), 0.3, **where) for _ in built.states)
    keep = torch.zeros(2, BATCH, **where)
    dispatch.unroll(backend, built, ops, drive(**where), STEPS, state, numbers, keep=keep)
    assert all((s == torch.full_like(s, 0.3)).all() for s in state)


@pytest.mark.parametrize(
    ("encoder", "decoder", "stateful"), list(itertools.product(ENCODERS, DECODERS, [False, True]))
)
def test_every_codec_pair_is_repeatable_batch_independent_and_trains(encoder, decoder, stateful):
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [16],
        "encoder": encoder,
        "decoder": decoder,
        "stateful": stateful,
    }
    settings["connection"] = {"name": "linear", "gain": 2.0, "offset": 0.5}
    settings["neuron"] = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
    network = registry.configure("networks", settings, "network").build(inputs=4, outputs=2)
    x = torch.randn(1, 6, 4)
    y, state = network(x, network.zero_state(6, x))
    again, _ = network(x, network.zero_state(6, x))
    assert y.shape == (1, 6, 2)
    assert [tuple(s.shape) for s in state] == [(1, 6, size) for size in network.state_sizes]
    assert torch.equal(y, again), "PPO compares probabilities of the same observation"
    alone, _ = network(x[:, 2:3], network.zero_state(1, x))
    assert torch.allclose(alone, y[:, 2:3], atol=1e-6)
    y.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("kind", [*registry.COMPONENT_KINDS, *registry.FILE_KINDS])
def test_every_entry_says_what_it_is(kind):
    from spiky_rl.cli.show import get_summary

    for name in registry.list_names(kind):
        assert len(get_summary(kind, name)) > 20, f"{kind} {name} has no docstring or summary"
        if kind in registry.COMPONENT_KINDS:
            cls = registry.resolve(kind, name)
            assert all(option.description for option in get_options(cls.Options).values())
