"""The CuPy of the environment is the one that the package is written for: it has every name that is used, it takes what it is given,
and the one that tests put in its place offers nothing else.
"""

import ast
import ctypes
import importlib
import importlib.util
import inspect
import itertools
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from spiky_rl.kernels import compiler, dispatch, programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.launch import RecurrentFeedback
from tests.kernels import fake_cupy, host_device, real_cupy
from tests.kernels.cases import NEURONS, SURROGATES, configured, distinct, vocabulary

pytestmark = pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed: the extra 'cuda'")
compiles = pytest.mark.skipif(
    bool(real_cupy.find_reason()), reason=real_cupy.find_reason() or "NVRTC is there"
)

ROOT = Path(__file__).parents[2]
ROOMS = ("spiky_rl", "benchmarks", "scripts")
GPU_TESTS = ("test_gpu.py", "test_gpu_recurrent.py", "real_cupy.py")
SOURCES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
SOURCES += [ROOT / "tests/kernels" / name for name in GPU_TESTS]
TEXTS = {path: text for path in SOURCES if "cupy" in (text := path.read_text(encoding="utf-8"))}
"""Sources that name CuPy."""


# The names that are used


def find_names(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield every dotted name of CuPy in a source, and whether it is imported as a module."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    if alias.name.partition(".")[0] == "cupy":
                        aliases[alias.asname or "cupy"] = alias.name if alias.asname else "cupy"
                        yield alias.name, True
            case ast.ImportFrom(module=str(module), level=0) if module.partition(".")[0] == "cupy":
                yield module, True
                for alias in node.names:
                    aliases[alias.asname or alias.name] = f"{module}.{alias.name}"
                    yield f"{module}.{alias.name}", False
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if name.partition(".")[0] == "cupy":
                yield name, True  # importlib's functions, which take a module alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            words, inner = [], node
            while isinstance(inner, ast.Attribute):
                words.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in aliases:
                yield ".".join([aliases[inner.id], *reversed(words)]), False


def find_missing(name: str, is_module: bool) -> str | None:
    """Return why the real CuPy does not have ``name``, or None if it has."""
    if is_module:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{type(error).__name__}: {error}"
        return None
    found = importlib.import_module("cupy")
    for word in name.split(".")[1:]:
        if not hasattr(found, word):
            return f"{found!r} has no {word!r}"
        found = getattr(found, word)
    return None


USED = sorted(
    {
        (*found, str(path.relative_to(ROOT)))
        for path, text in TEXTS.items()
        for found in find_names(ast.parse(text))
    }
)


def test_every_name_that_is_used_exists_in_the_real_cupy():
    assert {name for name, _, path in USED if path.startswith("spiky_rl")} >= {
        *("cupy", "cupy.RawModule", "cupy.cuda.Device", "cupy.cuda.Stream.from_external"),
        *("cupy.cuda.nvrtc.getVersion", "cupy.is_available"),
    }
    wrong = {(name, path): reason for name, module, path in USED if (reason := find_missing(name, module))}
    assert not wrong


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module('cupy.cuda.nvrtc').getVersion()",
        "import cupy.cuda.nvrtc",
        "import cupy as cp\ncp.cuda.Stream.from_outside(s)",
        "from cupy.cuda import nvrtc as n\nn.getVersions()",
        "from cupy import RawModules",
        "def f():\n    import cupy\n    return cupy.cuda.Devices(0)",
    ],
)
def test_a_name_that_the_real_cupy_does_not_have_is_found(text):
    assert any(find_missing(*found) for found in find_names(ast.parse(text)))


# The one in its place


def kind(value: object) -> str:
    """Return what a name stands for: a module, a class, something that is called, or a value that is read and set."""
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    return "called" if callable(value) or isinstance(value, classmethod) else "value"


def list_names(value: object) -> dict[str, object]:
    """Return what a module or class of the fake offers, by name."""
    special = {"__call__", "__enter__", "__exit__"}
    return {n: v for n, v in vars(value).items() if not n.startswith("_") or n in special}


def find_differences(fake: object, real: object, path: str) -> Iterator[str]:
    """Yield every name of the ``fake`` that the ``real`` one does not have in the same shape."""
    for name, value in list_names(fake).items():
        place = f"{path}.{name}"
        if isinstance(fake, type) and isinstance(value, types.MemberDescriptorType):
            continue  # a slot, of the fake alone
        if not hasattr(real, name):
            yield f"{place}: the real one has none"
            continue
        counterpart = inspect.getattr_static(real, name) if isinstance(real, type) else getattr(real, name)
        if kind(value) != kind(counterpart):
            yield f"{place} is a {kind(value)}, in the real one a {kind(counterpart)}"
        elif kind(value) in ("module", "class"):
            yield from find_differences(value, counterpart, place)


def is_imported(name: str) -> bool:
    """Whether ``import name`` finds a module."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_the_fake_offers_what_the_real_one_does_in_the_same_shape(monkeypatch):
    import cupy

    fake = fake_cupy.Cupy().module
    assert list(find_differences(fake, cupy, "cupy")) == []
    names = {"cupy", "cupy.cuda", "cupy.cuda.nvrtc", "cupy.cuda.Device"}
    real = {name: is_imported(name) for name in names}
    fake_cupy.put_in_place(monkeypatch, fake)
    assert {name: is_imported(name) for name in names} == real
    assert real["cupy.cuda"] and not real["cupy.cuda.nvrtc"], "an attribute, and no module to import"


def change_shape(fake: types.ModuleType, name: str) -> None:
    if name == "a name too many":
        fake.cuda.Context = type("Context", (), {})
    elif name == "a module for a class":
        fake.cuda.Device = types.ModuleType("cupy.cuda.Device")
    elif name == "a value for a function":
        fake.cuda.nvrtc.getVersion = (13, 0)
    else:
        fake.RawModule.load = lambda self: None


@pytest.mark.parametrize(
    "change", ["a name too many", "a module for a class", "a value for a function", "a method too many"]
)
def test_a_fake_of_another_shape_is_found(change):
    import cupy

    fake = fake_cupy.Cupy().module
    change_shape(fake, change)
    assert len(list(find_differences(fake, cupy, "cupy"))) == 1


# What the backend says of it


@compiles
def test_the_backend_takes_the_real_cupy_where_there_is_a_device(monkeypatch):
    assert cupy_backend.find_unavailable_reason.__wrapped__() is not None, "nothing has been told yet"
    real_cupy.tell_of_a_device(monkeypatch)
    assert cupy_backend.find_unavailable_reason.__wrapped__() is None
    monkeypatch.setattr(
        cupy_backend, "find_unavailable_reason", cupy_backend.find_unavailable_reason.__wrapped__
    )
    assert dispatch.resolve_auto.__wrapped__("cuda") == "cupy"


# What it is given


def read(pointer: int, size: int) -> bytes:
    return ctypes.string_at(pointer, size)


def test_the_real_cupy_passes_on_what_a_kernel_reads():
    from cupy._core._scalar import CScalar

    state, current = torch.zeros(1, 3, 5), torch.zeros(2, 1, 3, 5)
    others = (np.int64(7), *cupy_backend._format_feedback(RecurrentFeedback(3, binary=True, decay=0.5)))
    values = cupy_backend.build_arguments([current, state, None], current, 4, (0.25, 3e38, 1e-40), others)
    assert {type(value) for value in values} == {int, np.int64, np.int32, np.float32}
    for value, wanted in zip(values, host_device.pack(values), strict=True):
        scalar = CScalar(value)  # what CuPy makes of an argument that is no array
        assert scalar.dtype == wanted.dtype and read(scalar.ptr, wanted.nbytes) == wanted.tobytes()
    assert int.from_bytes(read(CScalar(values[0]).ptr, 8), "little") == current.data_ptr()


def test_the_real_cupy_takes_torchs_stream():
    import cupy

    taken = cupy.cuda.Stream.from_external(cupy_backend._Stream(fake_cupy.STREAM))
    assert taken.ptr == fake_cupy.STREAM


def test_the_real_cupys_kernels_are_launched_on_a_given_stream():
    import cupy

    class Seen(BaseException):
        """The stream is looked at."""

    class Stream:
        @property
        def ptr(self):
            raise Seen

    function = cupy.cuda.function.Function.__new__(cupy.cuda.function.Function)
    with pytest.raises(Seen):
        function((1,), (1,), (), shared_mem=0, stream=Stream())
    with pytest.raises(TypeError, match="unexpected keyword"):
        function((1,), (1,), (), shared_mem=0, streams=Stream())


# What it compiles


def key(neuron: str, surrogate: str, learned: bool) -> str:
    built = configured(neuron, learned)
    return programs.prepare_call(built, vocabulary(surrogate), distinct(built, 4)(), 4).key


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    with real_cupy.compiling(tmp_path_factory.mktemp("cupy")) as found:
        yield found


def check_cubin(cubin: bytes, names: tuple[str, ...]) -> None:
    """Check that ``cubin`` is code for an H100 that holds the kernels ``names``."""
    assert cubin[:4] == b"\x7fELF"
    # of an ELF header for CUDA, the second byte of the flags is the architecture
    assert cubin[0x31] == int(real_cupy.ARCHITECTURE)
    for name in names:
        assert f".text.{name}\0".encode() in cubin, name


PROGRAMS = list(itertools.product(NEURONS, SURROGATES, [False, True], [False, True]))
FAST = [("alif", "arctangent", True, recurrent) for recurrent in (False, True)]
"""One with a recurrent loop and one without; test_nvrtc.py compiles every neuron's and every surrogate's text in the same way."""


@compiles
@pytest.mark.parametrize(
    ("neuron", "surrogate", "learned", "recurrent"),
    [pytest.param(*p, marks=[pytest.mark.slow] * (p not in FAST)) for p in PROGRAMS],
)
def test_cupy_compiles_a_neurons_kernels_for_an_h100(neuron, surrogate, learned, recurrent, cubins):
    count, prefix = len(cubins), "spiky_recurrent" if recurrent else "spiky"
    names = (f"{prefix}_forward", f"{prefix}_backward")
    assert cupy_backend.compile_kernels.__wrapped__(key(neuron, surrogate, learned), 0, recurrent) == names
    assert len(cubins) > count
    check_cubin(cubins[-1], names)


@compiles
def test_cupy_compiles_the_kernels_of_bits_for_an_h100(cubins):
    assert cupy_backend.load_bit_kernels.__wrapped__(0).keys() == {"spiky_pack", "spiky_unpack"}
    check_cubin(cubins[-1], ("spiky_pack", "spiky_unpack"))


@compiles
def test_what_cupy_does_not_compile_is_an_error_of_one_line_with_a_remedy(cubins, monkeypatch):
    from cupy.cuda import compiler as cupy_compiler

    monkeypatch.setattr(
        cupy_backend, "build_source", lambda *_: 'extern "C" __global__ void f() { absolute(1); }'
    )
    with pytest.raises(
        compiler.CompileError,
        match=r"cuda:0 \(CompileException: .*error: .*absolute.*network\.backend: torch",
    ) as failure:
        cupy_backend.compile_kernels.__wrapped__("lif", 0)
    assert "\n" not in str(failure.value)
    monkeypatch.setattr(cupy_compiler, "_get_arch", lambda: "10")  # as an architecture that NVRTC has dropped
    with pytest.raises(compiler.CompileError, match="gpu-architecture"):
        cupy_backend.load_bit_kernels.__wrapped__(0)
