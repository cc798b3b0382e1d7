"""A stack on a GPU, its kernels' text run on the host: features, states, gradients and penalties are those of the torch reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import KernelLaunch
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.networks.nir import FileParameters
from spiky_rl.penalties.base import expand_factors
from tests.kernels import fake_cupy, host_device
from tests.kernels.cases import CPU, CUPY, configured, distinct, near, network, vocabulary

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

BATCH, TIME = 13, 3
TOLERANCE = 1e-5
"""Of gradients and states, relative to the largest."""
LIF = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
SYNOPS, RATE = {"name": "synops", "weight": 40.0}, {"name": "rate", "weight": 300.0, "upper": 0.15}
RATE_CODE = {"name": "rate"}
"""An encoder whose signal changes from inner step to inner step."""


def results(made, stateful, time):
    """Features and last states, and all gradients; of the state too."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(time, BATCH, 19, generator=g).requires_grad_()
    state, keep = None, None
    if stateful:
        keep = (torch.rand(time, BATCH, generator=g) > 0.3).float()
        state = tuple(0.2 * torch.rand(s.shape, generator=g) for s in made.zero_state(BATCH, x))
        state = tuple(s.requires_grad_() for s in state)
    torch.manual_seed(7)  # what a rate code draws
    y, last = made(x, state, keep)
    loss = (y * torch.randn(y.shape, generator=g)).sum() + sum((s * s).sum() for s in last)
    wanted = [x, *(state or ()), *(p for p in made.parameters() if p.requires_grad)]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    found = [None if grad is None else grad.detach() for grad in grads]
    return [y.detach(), *(s.detach() for s in last)], found


def compare(threads=1 << 20, scratch=1 << 26, time=TIME, **options):
    """Check the stack beside the reference; ``threads`` and ``scratch``: as if a device had no more. Return the launches."""
    stateful = options.get("stateful", False)
    time = time if stateful else 1
    expected, gradients = results(network("torch", **options), stateful, time)
    with pytest.MonkeyPatch.context() as patch, fake_cupy.on_the_host() as cupy:
        patch.setattr(cupy_backend, "SUMMING_THREADS", threads)
        patch.setattr(cupy_backend, "SCRATCH_FLOATS", scratch)
        found, others = results(network("cupy", **options), stateful, time)
    assert expected[0].any()
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b) if i == 0 else near(a, b, TOLERANCE), f"features or state {i}"
    for i, (a, b) in enumerate(zip(others, gradients, strict=True)):
        assert (a is None) == (b is None), f"gradient {i} is there"
        assert a is None or near(a, b, TOLERANCE), f"gradient {i}"
    assert sum(grad is not None and bool(grad.any()) for grad in gradients) >= 4
    return cupy.launches


CASES = {
    "plain": {},
    "penalty": {"sparsity": SYNOPS},
    "another penalty": {"sparsity": RATE},
    "signal of inner steps": {"encoder": RATE_CODE, "sparsity": SYNOPS},
    "stateful": {"stateful": True},
    "stateful penalty": {"stateful": True, "sparsity": RATE},
    "one control step": {"stateful": True, "sparsity": RATE, "time": 1},
    "learned": {
        "neuron": {**LIF, "learn": ["tau", "threshold"], "spread": 2.0},
        "stateful": True,
        "sparsity": SYNOPS,
    },
    "graded": {
        "neuron": {"name": "sigma_delta", "threshold": 0.3},
        "encoder": RATE_CODE,
        "decoder": {"name": "rate"},
        "sparsity": SYNOPS,
    },
    "more steps than registers": {"steps": 9, "sparsity": SYNOPS},
    "one step": {"steps": 1, "sparsity": SYNOPS},
    "no potential": {"decoder": "rate", "sparsity": RATE},
    "mean potential": {"decoder": {"name": "membrane", "read": "mean"}},
    "masked": {"connection": {"name": "linear", "density": 0.5, "dale": True}, "sparsity": RATE},
    "no bias": {"connection": {"name": "linear", "bias": False}},
    "truncated": {"stateful": True, "learning": {"name": "bptt", "truncate": 2}, "sparsity": RATE},
    "alif": {"neuron": {"name": "alif", "tau": 2.0}, "stateful": True, "sparsity": SYNOPS},
}


@pytest.mark.parametrize("threads", [1, 200, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_a_stack_is_the_reference(case, threads):
    launches = compare(threads, **CASES[case])
    assert set(launches) == {"spiky_layer_forward", "spiky_layer_backward"}


@pytest.mark.parametrize("order", [host_device.REVERSED, host_device.PERMUTED])
def test_a_stack_in_any_order_of_threads_is_the_reference(order):
    with host_device.ordered(order):
        compare(200, **CASES["learned"])
        compare(200, **CASES["penalty"])


def test_little_scratch_memory_is_used_again_by_the_next_samples():
    compare(scratch=1, **CASES["stateful penalty"])
    compare(scratch=12 * 100, **CASES["stateful penalty"])


@pytest.mark.parametrize("outputs", [1, 3, 8, 16, 17])
def test_a_readout_of_any_width_gives_its_gradient_back(outputs):
    settings = {"name": "feedforward", "layers": [21, 10], "neuron": LIF, "sparsity": SYNOPS}
    found = []
    for backend in ("torch", "cupy"):
        torch.manual_seed(0)
        made = registry.configure("networks", {**settings, "backend": "torch"}, "n").build(
            inputs=19, outputs=outputs
        )
        with fake_cupy.on_the_host() as cupy:
            made.set_backend(backend)
            found.append(results(made, False, 1)[1])
        read_back = [module for module in cupy.sources if f"#define READERS {outputs}\n" in module]
    assert len(read_back) == (outputs <= cupy_backend.READERS)
    assert all(near(a, b, TOLERANCE) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "shape", [(0, 5, 0), (1, 1, 0), (32_768, 400, 0), (32_768, 200, 128), (7, 5_000_000, 0)]
)
def test_rows_of_threads_are_as_even_as_can_be_and_within_their_limits(shape):
    B, N, floats = shape
    rows = cupy_backend.count_rows(B, N, floats)
    assert 1 <= rows <= max(B, 1)
    assert rows == 1 or rows * N <= cupy_backend.SUMMING_THREADS
    assert rows == 1 or rows * N * floats <= cupy_backend.SCRATCH_FLOATS
    samples = -(-B // rows)
    assert rows * (samples - 1) <= B, "no thread has two samples fewer than another"


@pytest.mark.parametrize(
    ("neuron", "steps", "outputs", "registers", "reads_back"),
    [
        ("lif", 4, 8, 4, True),
        ("lif", 8, 16, 8, True),
        ("lif", 9, 8, 0, False),
        ("lif", 4, 17, 4, False),
        ("izhikevich", 8, 12, 8, True),
        ("izhikevich", 8, 13, 8, False),
        ("hodgkin_huxley", 8, 1, 0, False),
    ],
)
def test_what_fits_into_registers_follows_states_steps_and_readers(
    neuron, steps, outputs, registers, reads_back
):
    built = configured(neuron, False)
    call = programs.prepare_call(built, vocabulary(), distinct(built, 5)(), 5)
    launch = KernelLaunch(call.key, torch.zeros(1, 1, 3, 5), None, None, None, call.uniforms, steps)
    assert CUPY.count_register_steps(launch) == registers
    assert CUPY.can_read_back(launch, outputs) == reads_back
    assert CUPY.count_register_steps(replace(launch, current=torch.zeros(2, 1, 3, 5))) == 0


def test_layers_that_learn_nothing_get_no_gradient_and_no_launch():
    made = network("torch", stateful=True)
    for layer in made.layers:
        layer.requires_grad_(False)
    x, state = torch.ones(2, BATCH, 19), made.zero_state(BATCH, torch.empty(0))
    with fake_cupy.on_the_host() as cupy:
        made.set_backend("cupy")
        y, last = made(x, state, torch.ones(2, BATCH))
        assert [s.requires_grad for s in last] == [False, False, True]
        y.sum().backward()
    assert cupy.launches == {"spiky_layer_forward": 3, "spiky_layer_backward": 1}


def test_parameters_of_neurons_are_read_in_every_call():
    x, found = torch.randn(1, BATCH, 19, generator=torch.Generator().manual_seed(1)), []
    for backend in ("torch", "cupy"):
        with fake_cupy.on_the_host():
            made = network(backend)
            layer = made.layers[0]
            layer.parameters_of_neuron = FileParameters(
                layer.neuron, (np.linspace(0.2, 0.8, 70), np.ones(70))
            )
            made(x, None)
            layer.parameters_of_neuron.value_0.mul_(0.1)
            found.append(made(x, None)[0])
    assert torch.equal(*found)


def test_strided_states_and_biases_are_those_in_one_piece():
    g = torch.Generator().manual_seed(1)
    x, column = torch.randn(TIME, BATCH, 19, generator=g), torch.randn(3, 2, generator=g)[:, 1]
    state = [0.2 * torch.rand(1, BATCH, size, generator=g) for size in (70, 33, 3)]
    with torch.no_grad():
        made = network("torch", stateful=True)
        made.decoder.readout.bias.data = column.contiguous()
        expected, states = made(x, tuple(state), torch.ones(TIME, BATCH))
        with fake_cupy.on_the_host():
            made.set_backend("cupy")
            made.decoder.readout.bias.data = column
            given = tuple(s.mT.contiguous().mT for s in state)
            found, after = made(x, given, torch.ones(TIME, BATCH))
    assert torch.equal(found, expected)
    assert all(near(a, b, TOLERANCE) for a, b in zip(after, states, strict=True))


@pytest.mark.parametrize("options", [{}, {"recurrent": "recurrent"}, {"recompute": True}], ids=str)
def test_mixed_precision_of_a_learner_changes_nothing(options):
    x = torch.randn(1, BATCH, 19, generator=torch.Generator().manual_seed(1))
    with fake_cupy.on_the_host():
        made = network("cupy", **options)
        expected = made(x, None)[0]
        for gradients_on in (True, False):
            with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradients_on):
                assert torch.equal(made(x, None)[0], expected)


@pytest.mark.parametrize("case", ["plain", "penalty", "stateful", "learned"])
def test_no_samples_have_gradients_of_zero(case):
    made = network("torch", **CASES[case])
    time = TIME if made.stateful else 1
    x = torch.zeros(time, 0, 19, requires_grad=True)
    given = (made.zero_state(0, x), torch.ones(time, 0)) if made.stateful else (None,)
    with fake_cupy.on_the_host():
        made.set_backend("cupy")
        y, _ = made(x, *given)
        y.sum().backward()
    assert y.shape == (time, 0, 3) and x.grad is not None and x.grad.shape == x.shape
    grads = [p.grad for p in made.parameters()]
    assert grads and all(grad is not None and not grad.any() for grad in grads)


@pytest.mark.parametrize("recurrent", [None, "recurrent"])
@pytest.mark.parametrize("strange", ["states", "keep"])
def test_a_tensor_on_another_device_is_refused_where_a_kernel_would_read_its_address(strange, recurrent):
    x = torch.zeros(TIME, BATCH, 19)
    # without gradients, because torch leaves an operator with a tensor on meta to its shapes alone
    with fake_cupy.on_the_host() as cupy, torch.no_grad():
        made = network("cupy", stateful=True, **({"recurrent": recurrent} if recurrent else {}))
        given = {"states": made.zero_state(BATCH, x), "keep": torch.ones(TIME, BATCH)}
        made(x, *given.values())
        before = cupy.launches.total()
        moved = given[strange]
        given[strange] = moved.to("meta") if strange == "keep" else tuple(s.to("meta") for s in moved)
        with pytest.raises(TypeError, match=f"^{strange}: on meta given; expected: on cpu"):
            made(x, *given.values())
    assert cupy.launches.total() == before


@pytest.mark.parametrize("neuron", ["lif", "alif"])
def test_training_starts_from_a_state_that_a_rollout_left_or_that_is_reset_before_the_backward_pass(neuron):
    x = torch.randn(TIME, BATCH, 19, generator=torch.Generator().manual_seed(1))
    with fake_cupy.on_the_host() as cupy:
        made = network("cupy", stateful=True, neuron={**LIF, "name": neuron})
        with torch.inference_mode():
            _, after = made(x, made.zero_state(BATCH, x))
        found = []
        for reset in (False, True):
            state = tuple(s.clone() for s in after) if reset else after
            features, _ = made(x, state)
            if reset:
                torch._foreach_zero_(state)
            found.append(torch.autograd.grad(features.sum(), list(made.parameters())))
        before = cupy.launches.total()
        made.set_backend("torch")
        features, _ = made(x, tuple(s.clone() for s in after))
        expected = torch.autograd.grad(features.sum(), list(made.parameters()))
        assert cupy.launches.total() == before
    for grads in found:
        assert all(near(a, b, TOLERANCE) and b.any() for a, b in zip(grads, expected, strict=True))


@pytest.mark.parametrize("features_have_a_loss", [True, False])
def test_only_a_backward_pass_through_the_features_adds_the_penalty(features_have_a_loss):
    x, found = torch.randn(TIME, BATCH, 19, generator=torch.Generator().manual_seed(1)), []
    for backend, sparsity in (("torch", SYNOPS), ("cupy", SYNOPS), ("cupy", None)):
        with fake_cupy.on_the_host():
            made = network(backend, stateful=True, sparsity=sparsity)
            features, last = made(x, made.zero_state(BATCH, x))
            loss = sum(s.sum() for s in last) + (0.0 * features.sum() if features_have_a_loss else 0.0)
            found.append(torch.autograd.grad(loss, [layer.connection.weight for layer in made.layers]))
    for expected, paid, free in zip(*found, strict=True):
        assert near(paid, expected, TOLERANCE)
        assert near(free, expected, TOLERANCE) == (not features_have_a_loss)


def test_a_penaltys_gradient_is_converted_to_the_type_that_a_kernel_reads(monkeypatch):
    expected = results(network("torch", sparsity=SYNOPS), False, 1)[1]
    kind = registry.resolve("penalties", "synops")
    own = kind.compute_gradient
    monkeypatch.setattr(kind, "compute_gradient", lambda *arguments: own(*arguments).double())
    with fake_cupy.on_the_host():
        found = results(network("cupy", sparsity=SYNOPS), False, 1)[1]
    assert all(near(a, b, TOLERANCE) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gradient: gradient[1:], r"shape \[102\] given; expected: \[103\]"),
        (lambda gradient: gradient.mean(), r"shape \[\] given; expected: \[103\]"),
        (lambda gradient: gradient.to("meta"), "on meta given; expected: on cpu"),
    ],
)
def test_a_penaltys_gradient_that_a_kernel_would_misread_is_refused(change, message, monkeypatch):
    kind = registry.resolve("penalties", "synops")
    own = kind.compute_gradient
    monkeypatch.setattr(kind, "compute_gradient", lambda *arguments: change(own(*arguments)))
    with fake_cupy.on_the_host(), pytest.raises((TypeError, ValueError), match=message) as error:
        network("cupy", sparsity=SYNOPS)(torch.zeros(1, BATCH, 19), None)
    assert str(error.value).startswith("sparsity: compute_gradient: ")


def test_a_rollout_has_the_features_of_the_update():
    x = torch.randn(1, BATCH, 19, generator=torch.Generator().manual_seed(1))
    with fake_cupy.on_the_host() as cupy:
        made = network("cupy", sparsity=SYNOPS)
        with torch.no_grad():
            seen = made(x, None)[0]
        assert cupy.launches == {"spiky_layer_forward": 3}
        assert torch.equal(made(x, None)[0], seen) and seen.any()


def test_a_schedule_of_the_slope_reaches_the_kernels():
    options = {"surrogate": {"name": "arctangent", "schedule": [10.0, 4]}}
    expected, made = network("torch", **options), network("torch", **options)
    with fake_cupy.on_the_host():
        made.set_backend("cupy")
        for _ in range(2):
            found = [results(each, False, 1)[1] for each in (made, expected)]
            assert all(near(a, b, TOLERANCE) for a, b in zip(*found, strict=True))
            for each in (made, expected):
                each.count_update()


def test_a_penalty_without_a_closed_form_is_differentiated():
    class Half(registry.resolve("penalties", "rate")):
        compute_factors = registry.resolve("penalties", "rate").__mro__[1].compute_factors
        compute_gradient = registry.resolve("penalties", "rate").__mro__[1].compute_gradient

    rate = registry.configure("penalties", RATE, "p").build()
    widths, fan_out, g = [4, 3], [2.0, 5.0], torch.Generator().manual_seed(1)
    rates = torch.rand(7, generator=g)
    found = []
    for penalty in (rate, Half(rate.options)):
        factors = expand_factors(penalty, widths, fan_out)
        found.append(penalty.compute_gradient(rates, factors, widths, fan_out))
    assert near(*found, 1e-6) and found[0].any()


FAULTS = {
    "no charge": ("penalty", "go = go + price * sign[k];", ""),
    "a charge of silence": ("penalty", "price * sign[k]", "price"),
    "a charge of every sample": ("penalty", "charge[n] * share", "charge[n]"),
    "no charge over time": ("stateful penalty", "go = go + price * sign_of(out);", ""),
    "a charge of the first step alone": (
        "stateful penalty",
        "const F drive = current[",
        "const F drive = k ? 0.0f : current[",
    ),
    "activity of the last sample": (
        "another penalty",
        "active = active + lane_abs(out)",
        "active = lane_abs(out)",
    ),
    "activity without a mean": ("another penalty", "active * share;", "active;"),
    "activity in the place of another row": ("another penalty", "thread / N * width + n]", "thread]"),
    "a graded output without its sign": ("graded", "x < 0.0f ? -1.0f", "x < 0.0f ? 1.0f"),
    "bias of the last sample": (
        "plain",
        "total = total + gi;\n      gi = 0.0f;\n    }\n    for",
        "total = gi;\n      gi = 0.0f;\n    }\n    for",
    ),
    "weights of another reader": ("plain", "weight[f * N + n]", "weight[f * N]"),
    "the gradient of another sample": ("plain", "(k * B + b) * READERS", "k * B * READERS"),
    "an output of every step": ("plain", "return !last_step || k == K - 1;", "return true;"),
    "no offset": ("plain", "offset ? out + added : out", "out"),
    "keep of another sample": ("stateful", "keep[t * B + b]", "keep[t * B]"),
    "scratch of another thread": (
        "stateful",
        "STATES + q) * threads + thread] = s[q]",
        "STATES + q) * threads] = s[q]",
    ),
    "a parameter of another neuron": ("learned", "params[q * N + n]", "params[q * N]"),
    "a parameter's gradient for all": (
        "learned",
        "sums[(1 + q) * threads + thread] = gp[q]",
        "sums[(1 + q) * threads + thread] = gp[0]",
    ),
    "the state's gradient without keep": ("stateful", "g[q] = g[q] * factor;", ";"),
    "one current for all steps": ("signal of inner steps", "constant && k ? drive[0]", "k ? drive[0]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_text_is_caught(fault, monkeypatch):
    case, right, wrong = FAULTS[fault]
    header = programs.read_header
    assert right in header("layer_gpu")
    faulty = header("layer_gpu").replace(right, wrong)
    monkeypatch.setattr(programs, "read_header", lambda name: faulty if name == "layer_gpu" else header(name))
    with pytest.raises(AssertionError):
        compare(200, **CASES[case])


def test_parameters_and_biases_in_another_type_are_converted_or_refused():
    x = torch.randn(1, BATCH, 19, generator=torch.Generator().manual_seed(1))
    made = network("torch", **CASES["learned"])
    with fake_cupy.on_the_host():
        made.set_backend("cupy")
        made.layers[0].parameters_of_neuron.double()
        with torch.no_grad():
            expected = made(x, None, record=ForwardRecord(only_signals=True))[0]
            assert near(made(x, None)[0], expected, TOLERANCE) and expected.any()
        made.decoder.readout.bias.data = made.decoder.readout.bias.data.double()
        with pytest.raises(
            ValueError, match="bias: .* in torch.float64 given; expected: .* in torch.float32"
        ):
            made(x, None)
