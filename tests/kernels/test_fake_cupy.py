"""The CuPy backend, as it is, on a CuPy that runs its kernels on the host: every agent's network computes what the CPU's kernels do.

Matrix products are torch's on both sides, as they are on a CUDA device: what is compared are the kernels and their launches.
"""

import copy
import math

import numpy as np
import pytest
import torch

from spiky_rl.config import registry, spec
from spiky_rl.config.registry import UserError
from spiky_rl.kernels import programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import KernelLaunch, RecurrentFeedback, RecurrentLaunch
from tests.kernels import fake_cupy
from tests.kernels.cases import CPU, CUPY, STEPS, configured, distinct, inputs, near, vocabulary

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

BATCH, TIME, OUTPUTS = 5, 3, 2
OBSERVATIONS, IMAGE = 4, (2, 34, 34)
GRADIENT = 1e-6
"""Relative to the largest: parameters of neurons are summed over lanes in another order."""


def agents() -> list[str]:
    """Those whose network spikes."""
    return [name for name in registry.list_names("agents") if "network" in spec.read_agent(name)[1]]


def built(agent: str):
    """An agent's network, observations [T, B, O] for it, and whether anything but its readout learns by gradients."""
    settings = spec.add_default_layers(spec.read_agent(agent)[1]["network"], [6, 5])
    chosen = registry.configure("networks", settings, agent)
    connection = chosen.parts.get("connection")
    images = isinstance(connection, tuple) and connection[0].name == "convolutional"
    torch.manual_seed(0)
    made = chosen.build(inputs=IMAGE if images else OBSERVATIONS, outputs=OUTPUTS)
    width = math.prod(IMAGE) if images else OBSERVATIONS
    x = torch.randn(TIME if made.stateful else 1, BATCH, width)
    return made, x, not chosen.cls.caches_fixed_part(chosen.options)


def results(made, backend: str, x: torch.Tensor):
    """Features and states without gradients and with them, weights that learned by themselves, and all gradients."""
    made = copy.deepcopy(made)
    made.set_backend(backend)
    state, keep = None, None
    if made.stateful:
        state = made.zero_state(BATCH, x)
        keep = (torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(1)) > 0.4).float()
    with torch.no_grad():
        seen = made(x, state, keep)
    y, last = made(x, state, keep)
    g = torch.Generator().manual_seed(2)
    sum((t * torch.randn(t.shape, generator=g)).sum() for t in (y, *last) if t.requires_grad).backward()
    grads = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    found = [seen[0], *seen[1], y.detach(), *(s.detach() for s in last)]
    if made.fixed_size is not None:
        adapted, after = made.compute_fixed_part(x, state, keep, adapt=True)
        found += [adapted, *after]
    if made.has_local_rules:
        made.apply_local_rules(x, state, keep, torch.randn(x.shape[:2], generator=g))
    return [*found, *(w.detach() for w in (*made.parameters(), *made.buffers()))], grads


@pytest.fixture
def plain_products(monkeypatch):
    """Matrix products by torch, layer by layer: the CPU backend's own add in another order."""
    monkeypatch.setattr(CPU, "stack", lambda *_: None)
    for ability in ("linear", "convolution"):
        monkeypatch.setattr(CPU, ability, getattr(CUPY, ability))

    def linear(x, bits, weight, bias, binary):
        if bits is not None:
            bits.copy_(CPU.pack(x))
        return torch.nn.functional.linear(x, weight, bias)

    def gradient(bits, grad, count, bias):
        return (CPU.unpack(bits, count).t() @ grad).t(), grad.sum(0) if bias else grad.new_empty(0)

    monkeypatch.setattr(CPU, "linear_forward", linear)
    monkeypatch.setattr(CPU, "linear_backward", gradient)


SLOW = {"hodgkin_huxley_ppo", "izhikevich_ppo", "quadratic_ppo", "resonate_ppo"}
SLOW |= {"lif_spikeprop_ppo", "lif_slayer_ppo", "lif_conv_small_classifier"}
"""Agents like others but for a neuron, a rule or sizes; test_cuda_on_host.py compares every neuron."""


@pytest.mark.parametrize(
    "agent", [pytest.param(agent, marks=[pytest.mark.slow] * (agent in SLOW)) for agent in agents()]
)
def test_every_agents_network_is_that_of_the_cpus_kernels(agent, plain_products):
    made, x, learns = built(agent)
    expected, wanted = results(made, "cpu", x)
    with fake_cupy.on_the_host() as cupy:
        counted = CUPY.launches.total()
        found, grads = results(made, "cupy", x)
        counted = CUPY.launches.total() - counted
    assert counted == cupy.launches.total(), "every launch is counted"
    forward, backward = (
        sum(cupy.launches[f"spiky_{kind}{way}"] for kind in ("", "layer_", "recurrent_"))
        for way in ("forward", "backward")
    )
    assert forward > 0 and (backward > 0) == learns
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), f"features, states and weights, number {i}"
    assert expected[0].any() and wanted.keys() == grads.keys()
    for name, grad in grads.items():
        assert near(grad, wanted[name], GRADIENT), name
    assert any(grad.any() for grad in grads.values()), "a network that nothing flows through proves little"


@pytest.mark.parametrize("threads", [1, 700, 1 << 20])
@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (7, 130)], ids=str)
def test_spikes_are_kept_as_the_cpus_bits_and_come_back(shape, threads):
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    with fake_cupy.on_the_host() as cupy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy_backend, "SUMMING_THREADS", threads)
        bits = CUPY.pack(x)
        assert torch.equal(CUPY.unpack(bits, shape[1]), x)
    assert torch.equal(bits, CPU.pack(x))
    assert cupy.launches == {"spiky_pack": 1, "spiky_unpack": 1}


@pytest.mark.parametrize("most", [1, 128, 1 << 26])
def test_an_adjoint_in_chunks_is_the_whole_ones(most, monkeypatch):
    job = call(width=61)  # more lanes than a block
    feedback = RecurrentFeedback(2, binary=True, decay=0.5)
    synapses = torch.randn(122, 61, generator=torch.Generator().manual_seed(3))
    state = torch.cat([job[2], torch.zeros(feedback.states, *job[2].shape[1:])])
    job, loop = KernelLaunch(*job), RecurrentLaunch(*job[:2], state, *job[3:], feedback, synapses)
    with fake_cupy.on_the_host() as cupy:
        found, *_ = CUPY.forward(job, True)
        whole = CUPY.backward(job, torch.ones_like(found), None)
        whole += CUPY.recurrent_backward(loop, torch.ones_like(found), None)
        before = cupy.launches.copy()
        monkeypatch.setattr(cupy_backend, "SCRATCH_FLOATS", most)
        cupy.memory = 0
        parts = CUPY.backward(job, torch.ones_like(found), None)
        parts += CUPY.recurrent_backward(loop, torch.ones_like(found), None)
    launched = cupy.launches - before
    for kernel in ("spiky_backward", "spiky_recurrent_backward"):
        assert (launched[kernel] > 1) == (most < 1 << 26)
    assert all(near(a, b, GRADIENT) for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize("limit", [1, 128, 400, 682, 1024, 5000])
@pytest.mark.parametrize("unit", [1, 128])
def test_parts_are_equal_and_within_the_limit(limit, unit):
    for count in (1, 129, 1000, 1024):
        part = cupy_backend.choose_part_size(count, limit, unit)
        assert part % unit == 0 and (part <= limit or part == unit)
        sizes = [min(part, count - first) for first in range(0, count, part)]
        fewest = -(-count // max(unit, limit // unit * unit))
        assert len(sizes) <= fewest and max(sizes) - min(sizes) < unit * len(sizes) + len(sizes)


def test_a_recurrent_adjoint_has_as_few_launches_as_the_devices_memory_allows(monkeypatch):
    job, feedback = call(learned=False, width=61), RecurrentFeedback(1, binary=True)
    state = torch.cat([job[2], torch.zeros(feedback.states, *job[2].shape[1:])])
    loop = RecurrentLaunch(*job[:2], state, *job[3:], feedback, torch.zeros(61, 61))
    per_row = 4 * TIME * STEPS * 61 * 6
    monkeypatch.setattr(cupy_backend, "SCRATCH_FLOATS", 1)
    for memory, launches in ((0, 3), (2 * per_row * 32, 2), (3 * per_row * 32, 1)):
        with fake_cupy.on_the_host() as cupy:
            cupy.memory = memory
            CUPY.recurrent_backward(loop, torch.ones(TIME, STEPS, 3, 61), None)
        assert cupy.launches == {"spiky_recurrent_backward": launches}


def call(learned=True, width=5):
    """A neuron's arguments, up to the uniforms and steps."""
    neuron = configured("alif", learned)
    made = programs.prepare_call(neuron, vocabulary(), distinct(neuron, width)(), width)
    current, state, keep = inputs(neuron, 3, width)
    params = None if made.params is None else made.params.detach()
    return made.key, current, torch.stack(state), params, keep, made.uniforms, STEPS


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 61)], ids=str)
def test_grid_and_block_have_a_thread_for_every_lane(shape):
    neuron = configured("lif", False)
    made = programs.prepare_call(neuron, vocabulary(), distinct(neuron, shape[1])(), shape[1])
    current, *_ = inputs(neuron, *shape)
    with fake_cupy.on_the_host() as cupy:
        CUPY.forward(KernelLaunch(made.key, current, None, None, None, made.uniforms, STEPS), False)
    ((name, grid, block),) = cupy.shapes
    assert name == "spiky_forward"
    assert (grid[0] - 1) * block[0] < math.prod(shape) <= grid[0] * block[0]


def test_no_samples_are_no_launch():
    neuron = configured("lif", False)
    made = programs.prepare_call(neuron, vocabulary(), distinct(neuron, 5)(), 5)
    current, *_ = inputs(neuron, 0, 5)
    with fake_cupy.on_the_host() as cupy:
        found, *_ = CUPY.forward(
            KernelLaunch(made.key, current, None, None, None, made.uniforms, STEPS), False
        )
    assert found.shape[2:] == (0, 5) and not cupy.launches


def test_each_launch_is_on_the_stream_that_is_then_torchs():
    job = KernelLaunch(*call())
    with fake_cupy.on_the_host() as cupy:
        found, *_ = CUPY.forward(job, True)
        cupy.current_stream = 7
        CUPY.backward(job, torch.ones_like(found), None)
    assert cupy.launches == {"spiky_forward": 1, "spiky_backward": 1}


def test_a_stream_that_was_torchs_once_is_caught(monkeypatch):
    job, wrap = KernelLaunch(*call()), cupy_backend.wrap_stream
    with fake_cupy.on_the_host() as cupy, monkeypatch.context() as patch:
        patch.setattr(cupy_backend, "wrap_stream", lambda device, _: wrap(device, fake_cupy.STREAM))
        CUPY.forward(job, True)
        cupy.current_stream = 7
        with pytest.raises(AssertionError, match="torch's current stream"):
            CUPY.forward(job, True)


def test_a_device_that_is_not_current_is_made_current():
    job = KernelLaunch(*call())
    with fake_cupy.on_the_host() as cupy:
        cupy.current_device = 1
        CUPY.forward(job, True)
        CUPY.forward(job, True)
        assert cupy.devices == []
    assert cupy.launches == {"spiky_forward": 2}
    assert cupy.restored == [], "CuPy's guard would create a context on the device that was current"


def test_a_cupy_that_does_not_follow_torch_is_told_of_the_device(monkeypatch):
    job = KernelLaunch(*call())
    with fake_cupy.on_the_host() as cupy:
        monkeypatch.setattr(cupy.module.cuda.runtime, "getDevice", lambda: 1)
        for count in (3, 4):  # module, stream and launch, then a launch
            CUPY.forward(job, True)
            assert cupy.restored == [None] * count and cupy.devices == []


def test_a_device_that_is_taken_for_the_current_one_is_caught(monkeypatch):
    job = KernelLaunch(*call())
    with fake_cupy.on_the_host() as cupy:
        CUPY.forward(job, True)
        cupy.current_device = 1
        monkeypatch.setattr(cupy_backend, "is_current_device", lambda _: True)
        with pytest.raises(AssertionError, match="runs on its module's device"):
            CUPY.forward(job, True)


def test_more_shared_memory_is_asked_for_on_the_device_that_is_launched_on():
    key, current, _, *others = call(learned=False)
    job, feedback = (key, current, None, *others), RecurrentFeedback(2_500, binary=False)
    loop = RecurrentLaunch(*job, feedback, torch.zeros(12_500, 5))
    with fake_cupy.on_the_host() as cupy:
        CUPY.recurrent_forward(loop, False)
        cupy.current_device = 1
        CUPY.recurrent_forward(loop, False)
    assert cupy.launches == {"spiky_recurrent_forward": 2}


def test_a_launch_like_an_earlier_one_makes_no_stream_no_context_and_no_number_anew(monkeypatch):
    job, made = KernelLaunch(*call()), []
    caches = (cupy_backend._format_sizes, cupy_backend._format_numbers, cupy_backend._format_layer)
    with fake_cupy.on_the_host() as cupy:
        for run in (lambda: CUPY.forward(job, False), lambda: CUPY.layer_forward(job, None, None)):
            run()
            before = [cache.cache_info().misses for cache in caches]
            with monkeypatch.context() as patch:
                patch.setattr(cupy_backend, "np", None)  # which makes numbers
                patch.setattr(cupy.module.cuda, "Device", lambda *_: made.append("Device"))
                patch.setattr(cupy.module.cuda, "Stream", None)
                run()
            assert [cache.cache_info().misses for cache in caches] == before
    assert made == [] and cupy.launches.total() == 4


def test_a_loop_that_shares_more_than_a_device_has_is_refused_by_its_key():
    key, current, _, *others = call(learned=False)
    job, feedback = (key, current, None, *others), RecurrentFeedback(12_000, binary=False)
    with fake_cupy.on_the_host() as cupy:
        with pytest.raises(
            UserError, match=r"^network\.recurrent: 5 neurons .* 240020 bytes .*network\.backend: torch$"
        ):
            CUPY.recurrent_forward(RecurrentLaunch(*job, feedback, torch.zeros(60_000, 5)), False)
    assert not cupy.launches


def change(place, value):
    def changed(values):
        return (*values[:place], value(values[place]), *values[place:][1:])

    return changed


ARGUMENTS = {
    "missing, an address": lambda values: values[:2] + values[3:],
    "missing, a number": lambda values: values[:-1],
    "one too many": lambda values: (*values, np.float32(0.0)),
    "a float of Python's, which CuPy passes as a double": change(-1, float),
    "a double": change(-1, np.float64),
    "an integer for a number": change(-1, lambda value: np.int64(0)),
    "32 bits for a size": change(7, np.int32),
    "64 bits for a truth": change(11, np.int64),
    "a tensor": change(0, lambda value: torch.zeros(1)),
    "nothing": change(1, lambda value: None),
}


@pytest.mark.parametrize("wrong", ARGUMENTS)
def test_an_argument_that_is_not_the_kernels_is_caught(wrong, monkeypatch):
    job, arguments = KernelLaunch(*call()), cupy_backend.build_arguments
    with fake_cupy.on_the_host() as cupy:
        CUPY.forward(job, True)
        monkeypatch.setattr(cupy_backend, "build_arguments", lambda *args: ARGUMENTS[wrong](arguments(*args)))
        with pytest.raises(AssertionError, match="spiky_forward"):
            CUPY.forward(job, True)
    assert cupy.launches.total() == 1


def test_a_kernels_text_says_what_it_takes():
    text = programs.build_source(programs.PROGRAMS[call()[0]])
    uniforms = [np.float32] * len(call()[5])
    assert fake_cupy.signature(text, "spiky_forward") == [int] * 7 + [np.int64] * 4 + [np.int32] + uniforms
    assert fake_cupy.signature(text, "spiky_backward") == [int] * 10 + [np.int64] * 4 + [
        *(np.int32, np.int64, np.int64, *uniforms)
    ]
