"""The CUDA text of every neuron, run thread by thread on the host, gives the CPU kernels' bits, by the arguments of a launch."""

import ctypes
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.verify_packages import REQUIRED
from spiky_rl.kernels import compiler, programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import KernelLaunch
from tests.kernels import host_device, test_gpu
from tests.kernels.cases import (
    CPU,
    CUPY,
    NEURONS,
    STEPS,
    SURROGATES,
    TIME,
    configured,
    distinct,
    inputs,
    vocabulary,
)

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

SHAPES = [(1, 1), (3, 5), (7, 37), (9, 61)]
"""B x N: less than a block, more than one, never whole ones, so that some threads have no lane."""
EITHER = (False, True)
PROGRAMS = [*itertools.product(NEURONS, ["arctangent"], EITHER), *(("lif", s, False) for s in SURROGATES)]
FAST = [*itertools.product(NEURONS, ["arctangent"], [True]), ("lif", "arctangent", False)]
"""Each neuron with parameters that differ from neuron to neuron, and one with numbers."""


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """The CuPy backend launches on the host."""
    monkeypatch.setattr(CUPY, "_launch", host_device.launch)


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_some_threads_have_no_lane_and_blocks_differ_in_number():
    launched = [cupy_backend.count_blocks(shape[0] * shape[1]) for shape in SHAPES]
    assert launched == [1, 1, 3, 5]
    assert all(blocks * cupy_backend.BLOCK > b * n for blocks, (b, n) in zip(launched, SHAPES, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("neuron", "surrogate", "learned"),
    [pytest.param(*program, marks=[pytest.mark.slow] * (program not in FAST)) for program in PROGRAMS],
)
def test_cuda_text_gives_the_bits_of_the_cpu_kernels(neuron, surrogate, learned, shape):
    built = configured(neuron, learned)
    call = programs.prepare_call(built, vocabulary(surrogate), distinct(built, shape[1])(), shape[1])
    params = None if call.params is None else call.params.detach()
    spikes, gradients = 0.0, 0.0
    for constant, kept, stateful in itertools.product(EITHER, repeat=3):
        current, state, keep = inputs(built, *shape, constant=constant)
        job = (call.key, current, torch.stack(state) if stateful else None, params, keep if kept else None)
        job += (call.uniforms, STEPS)
        for last, trace in itertools.product(EITHER, repeat=2):
            found, expected = (b.forward(KernelLaunch(*job), last, trace) for b in (CUPY, CPU))
            assert same(found, expected), ("forward", constant, kept, stateful, last, trace)
            spikes += float(expected[0].abs().sum())
        g = torch.Generator().manual_seed(5)
        grads = [torch.randn(x.shape, generator=g) for x in (expected[0], torch.stack(state))]
        for used in itertools.product(EITHER, repeat=2):
            given = [x if use else None for x, use in zip(grads, used, strict=True)]
            found, expected = (b.backward(KernelLaunch(*job), *given) for b in (CUPY, CPU))
            assert same(found, expected), ("backward", constant, kept, stateful, used)
            gradients += sum(float(x.abs().sum()) for x in expected)
    if shape == SHAPES[-1]:
        assert spikes > 0 and gradients > 0, "a silent neuron proves little"


def test_tensors_that_are_strided_or_of_another_type_reach_the_kernel_whole():
    built = configured("lif", True)
    call = programs.prepare_call(built, vocabulary(), distinct(built, 5)(), 5)
    current, state, keep = inputs(built, 3, 5)
    strided = current.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    rest = (torch.stack(state), call.params.detach())
    given = KernelLaunch(call.key, strided, *rest, keep.bool(), call.uniforms, STEPS)
    plain = KernelLaunch(call.key, current, *rest, keep, call.uniforms, STEPS)
    found = CUPY.forward(given, True)
    expected = CUPY.forward(plain, True)
    assert same(found, expected)
    one = torch.ones(())
    found = CUPY.backward(given, one.expand(found[0].shape), None)
    expected = CUPY.backward(plain, torch.ones_like(expected[0]), None)
    assert same(found, expected) and found[0].any()


def test_every_thread_keeps_its_states_in_its_own_places(monkeypatch):
    built, kept = configured("alif", True), []

    def launch(key, which, values, current, grid):
        host_device.launch(key, which, values, current, grid)
        size = TIME * STEPS * len(built.states) * current[0, 0].numel()
        kept.append(
            torch.from_numpy(np.ctypeslib.as_array((ctypes.c_float * size).from_address(values[9])).copy())
        )

    call = programs.prepare_call(built, vocabulary(), distinct(built, 37)(), 37)
    current, state, _ = inputs(built, 7, 37)
    job = KernelLaunch(
        call.key, current, torch.stack(state), call.params.detach(), None, call.uniforms, STEPS
    )
    _, _, potentials = CPU.forward(job, False, True)
    monkeypatch.setattr(CUPY, "_launch", launch)
    CUPY.backward(job, torch.ones_like(potentials), None)
    scratch = kept[0].view(TIME * STEPS, len(built.states), 7, 37)
    assert torch.equal(scratch[0], torch.stack(state)), "job.h: [T K, STATES, L], before every step"
    assert torch.equal(scratch[1:, 0], potentials.flatten(0, 1)[:-1])


@pytest.mark.parametrize("wrong", [np.float64, np.int64, float])
def test_an_argument_of_another_type_than_the_kernels_would_be_seen(wrong):
    built = configured("lif", False)
    call = programs.prepare_call(built, vocabulary(), distinct(built, 5)(), 5)
    current, *_ = inputs(built, 3, 5)
    values = cupy_backend.build_arguments(
        [current, None, None, None, current, None, None], current, STEPS, call.uniforms
    )
    with pytest.raises(AssertionError, match=f"argument {len(values)} "):
        host_device.launch(call.key, 0, (*values[:-1], wrong(values[-1])), current, 1)
    with pytest.raises(AssertionError, match="argument -1 "):
        host_device.launch(call.key, 0, values[:-1], current, 1)


COMPARED = """
#define SWEEP(name)                                                                         \\
  extern "C" void sweep_##name(const float *x, float *device, float *cpu, long n) {         \\
    for (long i = 0; i < n; i++) device[i] = lane_##name(x[i]);                             \\
    for (long i = 0; i < n; i++) cpu[i] = host::lane_##name(all(x[i]))[0];                  \\
  }
SWEEP(exp) SWEEP(tanh) SWEEP(tan) SWEEP(sqrt) SWEEP(abs) SWEEP(heaviside)
extern "C" void sweep_max(const float *x, float *device, float *cpu, long n) {
  for (long i = 0; i < n; i++)
    for (long j = 0; j < n; j++) {
      device[i * n + j] = lane_max(x[i], x[j]), device[(n + i) * n + j] = lane_min(x[i], x[j]);
      cpu[i * n + j] = host::lane_max(all(x[i]), all(x[j]))[0];
      cpu[(n + i) * n + j] = host::lane_min(all(x[i]), all(x[j]))[0];
    }
}
"""
"""Functions of a CUDA lane, here by the C library, beside those of a CPU's."""


def sweep(name, x, size):
    """Both lanes' results for float32 numbers."""
    text = "\n".join([host_device.before(), programs.read_header("lanes"), COMPARED])
    library = compiler.compile_library(text, "both lanes")
    x = np.ascontiguousarray(x, dtype=np.float32)
    found = [np.empty(size, dtype=np.float32) for _ in range(2)]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, *found)]
    getattr(library, f"sweep_{name}")(*pointers, ctypes.c_long(len(x)))
    return found


RANGES = {"exp": (-87.0, 88.0), "tanh": (-12.0, 12.0), "tan": (-1.5, 1.5)}
UNITS = 2
"""In the last place, by which Cephes' functions may differ from the C library's."""


@pytest.mark.parametrize("name", RANGES)
def test_functions_of_both_lanes_differ_by_two_units_in_the_last_place_at_most(name):
    x = np.linspace(*RANGES[name], 200_001, dtype=np.float32)
    device, cpu = sweep(name, x, len(x))
    units = np.abs(device.view(np.int32).astype(np.int64) - cpu.view(np.int32))
    assert units.max() <= UNITS, f"{units.max()} at {x[units.argmax()]}"
    assert units.max() > 0, "two algorithms, not one"


EDGES = [0.0, -0.0, 1.0, -1.0, 1e-39, -1e-39, 3e38, -3e38, np.inf, -np.inf, np.nan, 0.1, 1e-20]


@pytest.mark.parametrize(
    ("name", "size"), [("abs", 1), ("heaviside", 1), ("sqrt", 1), ("max", 2 * len(EDGES))]
)
def test_arithmetic_of_both_lanes_has_the_same_bits_at_the_edges(name, size):
    device, cpu = sweep(name, EDGES, size * len(EDGES))
    # the sign of a NaN that an operation makes is the machine's own affair
    assert np.array_equal(np.isnan(device), np.isnan(cpu))
    known = ~np.isnan(device)
    assert np.array_equal(device[known].view(np.int32), cpu[known].view(np.int32))
    assert known.any()


LIST = """
import sys
def loaded():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
import numpy, pytest, torch, yaml
before = loaded()
import tests.kernels.test_gpu, tests.kernels.test_gpu_recurrent
print(*loaded() - before - {"spiky_rl", "tests"})
"""


@pytest.mark.slow
def test_the_tests_that_need_a_gpu_need_pydantic_besides_torch_and_no_host_library():
    result = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    # Python's own build settings, and the finder of a package that is installed editable
    loaded = {name for name in loaded if not name.startswith("_")}
    assert loaded == {"pydantic", "pydantic_core", "annotated_types", "typing_inspection"}
    assert loaded <= set(REQUIRED), "verify_gpu.py asks for them"
    documented = test_gpu.__doc__ or ""
    assert all(name in documented for name in loaded), "and the tests' own page names them"
