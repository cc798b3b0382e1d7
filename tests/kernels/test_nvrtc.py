"""CuPy's compiler takes every neuron for every architecture, needs no GPU for it, and the kernels stay within their registers."""

import inspect
import itertools
import re

import pytest

from spiky_rl.kernels import programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from tests.kernels import real_cupy
from tests.kernels.cases import NEURONS, SURROGATES, configured, distinct, vocabulary

FAST, ALL = ("90",), ("80", "90", "100")
"""Architectures: A100, H100, B200."""
WIDE = ("alif", "arctangent", True)
"""What is compiled for all of them in the fast tests too."""
ADDED = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options, beside the architecture."""
REGISTERS = {
    "alif": (32, 48),
    "hodgkin_huxley": (40, 83),
    "izhikevich": (34, 72),
    "lif": (32, 56),
    "quadratic": (32, 47),
    "resonate": (32, 56),
    "sigma_delta": (32, 54),
}
"""Per thread, forward and backward: the most that NVRTC 13.0 takes on any architecture, with any surrogate, learned or not."""
RECURRENT = {
    "alif": (66, 92),
    "hodgkin_huxley": (72, 126),
    "izhikevich": (66, 113),
    "lif": (60, 72),
    "quadratic": (60, 86),
    "resonate": (70, 96),
    "sigma_delta": (66, 80),
}
"""The same of recurrent loops, whose blocks have 256 threads: up to 255 registers there is room for one."""
LAYER = {
    "alif": (54, 64, 95, 128),
    "cuba_lif": (56, 64, 94, 118),
    "hodgkin_huxley": (56, 106, 127, 181),
    "izhikevich": (48, 87, 154, 228),
    "lif": (56, 80, 80, 99),
    "quadratic": (40, 62, 103, 148),
    "resonate": (61, 72, 112, 156),
    "sigma_delta": (52, 56, 84, 137),
    "sigma_delta_unit": (54, 64, 89, 124),
}
"""Of a stack's layer: forward, and backward by `LAYERS`."""
LAYERS = ((0, 0), (4, 8), (8, 0))
"""Steps that the adjoint keeps in registers, and outputs of the readout that it reads back: over time; the Ant's; the most steps."""
HEADROOM = 8
"""For other versions of NVRTC: one unit in which a multiprocessor hands out registers."""
MOST = (120, 247)
"""Of the recurrent loop of a neuron that is not in the table: as many as a block of 256 threads may have."""
OTHERS = (56, 56)
"""Of a neuron that is not in the table: with the headroom 64, so that half of the threads a multiprocessor can hold fit."""
STACK = {"hodgkin_huxley": (0, 264), "quadratic": (32, 32)}
"""Bytes per thread, forward and backward; all others have none. Hodgkin-Huxley's adjoint keeps the states between its ten
sub-steps there (11 x 6 floats: local memory, which is cached); the quadratic neuron's is the C library's, to bring large arguments
of tan into range."""

MISSING = real_cupy.find_reason()
if not MISSING:
    from cupy.cuda import nvrtc
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "NVRTC is there")


def text(neuron, surrogate="arctangent", learned=False):
    """A neuron's source as it is given to CuPy."""
    built = configured(neuron, learned)
    key = programs.prepare_call(built, vocabulary(surrogate), distinct(built, 4)(), 4).key
    return cupy_backend.build_source(key, recurrent=True)


def ptx(source, *options):
    """The text before it is assembled. Raises `NVRTCError`."""
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*cupy_backend.OPTIONS, *ADDED, "-arch=compute_90", *options))
        return nvrtc.getPTX(program)
    finally:
        nvrtc.destroyProgram(program)


def measured(source, architecture, *options):
    """Registers, bytes of stack and bytes spilled of each kernel."""
    binary, log = real_cupy.compile_code(source, architecture, "--ptxas-options=-v", *options)
    assert binary[:4] == b"\x7fELF"
    assert "warning" not in log, log
    pattern = r"'(\w+)' for 'sm_\d+a?'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) reg"
    return {
        kernel: (int(registers), int(stack), int(stores) + int(loads))
        for kernel, stack, stores, loads, registers in re.findall(pattern, log, re.DOTALL)
    }


def check(neuron, surrogate, learned, architecture):
    found = measured(text(neuron, surrogate, learned), architecture)
    ways, frames = ("forward", "backward"), STACK.get(neuron, (0, 0))
    limits = {f"spiky_{w}": x for w, *x in zip(ways, REGISTERS.get(neuron, OTHERS), frames, strict=True)}
    limits |= {
        f"spiky_recurrent_{w}": x for w, *x in zip(ways, RECURRENT.get(neuron, MOST), frames, strict=True)
    }
    assert found.keys() == limits.keys()
    for kernel, (registers, stack, spilled) in found.items():
        most, frame = limits[kernel]
        where = f"{kernel} of {neuron} with {surrogate} on sm_{architecture}"
        assert registers <= most + HEADROOM, f"{where}: {registers} registers"
        assert stack == frame, f"{where}: {stack} bytes of stack"
        assert spilled == 0, f"{where}: {spilled} bytes spilled"


def layer_text(neuron, learned, steps, readers, surrogate="arctangent"):
    built = configured(neuron, learned)
    key = programs.prepare_call(built, vocabulary(surrogate), distinct(built, 4)(), 4).key
    return cupy_backend.build_layer_source(key, steps, readers)


def blocks_at_once(registers: int) -> int:
    """Blocks of `BLOCK` threads that a multiprocessor of an H100 runs at once: 65,536 registers, handed to warps in units of 256."""
    per_warp = -(-registers * 32 // 256) * 256
    return min(2048 // cupy_backend.BLOCK, 65536 // per_warp * 32 // cupy_backend.BLOCK)


FAST_LAYERS = [("alif", True, 1), ("lif", False, 1)]


@pytest.mark.parametrize(
    ("neuron", "learned", "kind"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST_LAYERS))
        for case in itertools.product(NEURONS, [False, True], range(len(LAYERS)))
    ],
)
def test_layers_of_a_stack_keep_to_their_registers_and_leave_room_for_others(neuron, learned, kind):
    found = measured(layer_text(neuron, learned, *LAYERS[kind]), "90")
    forward, *backward = LAYER[neuron]
    limits = {"spiky_layer_forward": forward, "spiky_layer_backward": backward[kind]}
    for (kernel, limit), frame in zip(limits.items(), STACK.get(neuron, (0, 0)), strict=True):
        registers, stack, spilled = found[kernel]
        assert registers <= limit + HEADROOM, f"{kernel}: {registers} registers"
        assert (stack, spilled) == (frame, 0), f"{kernel}: {stack} bytes of stack, {spilled} spilled"
        assert blocks_at_once(registers) >= 2
    if neuron in ("lif", "alif") and LAYERS[kind] == (4, 8):
        # half of a multiprocessor's threads, each with eight loads on their way, keep its memory busy
        assert blocks_at_once(found["spiky_layer_backward"][0]) * cupy_backend.BLOCK >= 640
        assert blocks_at_once(found["spiky_layer_forward"][0]) * cupy_backend.BLOCK >= 1024


@pytest.mark.slow
def test_a_layer_that_spills_or_takes_more_registers_is_seen():
    source = layer_text("lif", False, 4, 8)
    registers, stack, spilled = measured(source, "90", "-maxrregcount=32")["spiky_layer_backward"]
    assert registers <= 32 and stack > 0 and spilled > 0
    more = measured(layer_text("lif", False, 8, 16), "90")["spiky_layer_backward"][0]
    assert more > LAYER["lif"][2] + HEADROOM


PROGRAMS = [
    *itertools.product(NEURONS, ["arctangent"], [False, True]),
    *(("lif", surrogate, False) for surrogate in SURROGATES if surrogate != "arctangent"),
]
FAST_PROGRAMS = [(neuron, "arctangent", False) for neuron in ("alif", "lif", "sigma_delta")]


def architectures(*program):
    return ALL if program == WIDE else FAST


@pytest.mark.parametrize(
    ("neuron", "surrogate", "learned"),
    [
        pytest.param(*program, marks=[pytest.mark.slow] * (program not in FAST_PROGRAMS))
        for program in PROGRAMS
    ],
)
def test_kernels_compile_and_keep_to_their_registers(neuron, surrogate, learned):
    for architecture in architectures(neuron, surrogate, learned):
        check(neuron, surrogate, learned, architecture)


@pytest.mark.slow
@pytest.mark.parametrize(("neuron", "surrogate", "learned"), PROGRAMS)
def test_kernels_compile_and_keep_to_their_registers_on_the_other_architectures(neuron, surrogate, learned):
    for architecture in set(ALL) - set(architectures(neuron, surrogate, learned)):
        check(neuron, surrogate, learned, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("architecture", ["75", "89", "120"])  # T4, RTX 4090, RTX 5090
def test_kernels_compile_without_spills_for_workstations(architecture, neuron):
    for source in (text(neuron, learned=True), layer_text(neuron, True, 4, 8)):
        for kernel, (_, stack, spilled) in measured(source, architecture).items():
            assert spilled == 0, f"{kernel}: {spilled} bytes spilled"
            assert stack <= max(STACK.get(neuron, (0, 0))), f"{kernel}: {stack} bytes of stack"


@pytest.mark.parametrize("architecture", ALL)
def test_spikes_become_bits_and_back_within_a_few_registers(architecture):
    found = measured(programs.read_header("bits_gpu"), architecture)
    assert found.keys() == {"spiky_pack", "spiky_unpack"}
    assert all(registers <= 32 and not stack and not spilled for registers, stack, spilled in found.values())


@pytest.mark.slow
def test_what_spills_and_what_does_not_compile_is_seen():
    found = measured(text("hodgkin_huxley", learned=True), "90", "-maxrregcount=24")
    registers, stack, spilled = found["spiky_backward"]
    assert registers <= 24 and stack > STACK["hodgkin_huxley"][1] and spilled > 0
    with pytest.raises(nvrtc.NVRTCError):
        ptx(text("lif").replace("fabsf", "absolute"))


def test_products_are_not_contracted_into_multiply_adds():
    source = text("alif")
    separate, fused = ptx(source), ptx(source, "--fmad=true")
    assert b"mul.rn.ftz.f32" in separate and b"add.rn.ftz.f32" in separate
    assert b"fma.rn" not in separate
    assert b"fma.rn" in fused


def test_cupy_still_adds_the_options_that_are_added_here():
    from cupy.cuda import compiler

    assert all(f"'{option}'" in inspect.getsource(compiler) for option in ADDED)
