"""A backend that is named runs or raises with the reason and the remedy; only auto chooses, and says once what it chose."""

import importlib.util
import logging
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch, precision
from spiky_rl.kernels.backends import cpu as cpu_backend
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.kernels.ops import TorchOps
from tests.kernels import fake_cupy
from tests.kernels.cases import CPU, CUPY

STEPS, BATCH, WIDTH, INPUTS, OUTPUTS = 3, 4, 6, 5, 2
CACHED = (
    *(
        dispatch.require_backend,
        dispatch.resolve_auto,
        dispatch._log_fallback,
    ),  # pylint: disable=protected-access
    *(cpu_backend.find_unavailable_reason, cupy_backend.find_unavailable_reason, precision.has_fast_bfloat16),
)

TORCH = dispatch.get_backend("torch")

compiled = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)


@pytest.fixture(autouse=True)
def fresh():
    """What was chosen before is forgotten, and what a test made believe too."""
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def neuron():
    return registry.configure("neurons", {"name": "lif", "tau": 2.0}, "neuron").build()


def ops(smooth=False):
    return TorchOps(registry.configure("surrogates", "triangle", "surrogate").build(), soft_spike=smooth)


def current(dtype=torch.float32, device="cpu"):
    return torch.full((1, STEPS, BATCH, WIDTH), 3.0, dtype=dtype, device=device, requires_grad=True)


def unroll(backend, x, smooth=False):
    """One neuron over time, forward and backward: its output."""
    built = neuron()
    numbers = tuple(built.get_step_value(name) for name in built.params)
    y, _ = dispatch.unroll(backend, built, ops(smooth), x, STEPS, None, numbers)
    y.sum().backward()
    return y.detach()


def network(**settings):
    settings = {"name": "feedforward", "layers": [WIDTH], "steps": STEPS, **settings}
    torch.manual_seed(0)
    return registry.configure("networks", settings, "agent.network").build(inputs=INPUTS, outputs=OUTPUTS)


def launches():
    """Kernels that ran so far, on any backend."""
    return CPU.launches.total() + CUPY.launches.total()


def chosen(caplog):
    """What was logged about the choice of a backend."""
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == dispatch.__name__]


def cuda_machine(monkeypatch):
    """A machine on which torch sees a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def install(monkeypatch, **answers):
    """Put the fake CuPy in place, of which some functions give other ``answers``, on a machine on which torch sees a GPU."""
    cuda_machine(monkeypatch)
    cupy = fake_cupy.Cupy().module
    for name, answer in answers.items():
        owner = cupy if hasattr(cupy, name) else cupy.cuda.nvrtc
        assert hasattr(owner, name)
        setattr(owner, name, answer)
    fake_cupy.put_in_place(monkeypatch, cupy)
    monkeypatch.setattr(cupy_backend, "has_cuda_headers", lambda: True)


def fail(error):
    """Return a function that raises ``error``."""

    def raise_error():
        raise error

    return raise_error


# Named


def test_every_backend_has_a_name():
    assert dispatch.list_backends() == ["cpu", "cupy", "torch"]


@pytest.mark.parametrize("name", dispatch.list_backends())
def test_a_named_backend_runs_or_says_why_not(name):
    reason = dispatch.get_backend(name).get_unavailable_reason()
    if reason is None:
        assert dispatch.require_backend(name) is dispatch.get_backend(name)
        dispatch.check(name)
    else:
        with pytest.raises(RegistryError, match=f"^backend '{name}' is not available: "):
            dispatch.check(name)


@pytest.mark.parametrize(
    ("name", "near"), [("cuppy", "cupy"), ("torhc", "torch"), ("CPU", "cpu"), ("autp", "auto")]
)
def test_an_unknown_backend_is_named_with_the_nearest(name, near):
    message = f"unknown backend {name!r}; choose from auto, cpu, cupy, torch"
    with pytest.raises(RegistryError, match=message) as caught:
        dispatch.check(name)
    if name != "CPU":
        assert f"did you mean {near!r}?" in str(caught.value)


@compiled
def test_the_backend_that_is_named_is_the_one_that_runs():
    before = CPU.launches.copy()
    found = unroll("cpu", current())
    ran = CPU.launches - before
    assert sorted(ran.values()) == [1, 1] and all(key.startswith("Lif-") for key in ran)
    assert [key.endswith(" backward") for key in sorted(ran)] == [False, True]
    total = launches()
    assert torch.equal(unroll("torch", current()), found) and found.sum() > 0
    assert launches() == total, "the torch reference launches nothing"


UNFIT = {
    "float64": ({"dtype": torch.float64}, False, "computes in float32, not in torch.float64"),
    "float16": ({"dtype": torch.float16}, False, "computes in float32, not in torch.float16"),
    "another device": ({"device": "meta"}, False, "computes on cpu, the tensor lies on meta"),
    "smooth spikes": ({}, True, "has no smooth spikes"),
}


@compiled
@pytest.mark.parametrize("case", UNFIT)
def test_a_named_backend_refuses_what_its_kernels_cannot_take(case):
    settings, smooth, reason = UNFIT[case]
    total = launches()
    with pytest.raises(RegistryError, match=f"^backend 'cpu' {reason}; backend: torch does$"):
        unroll("cpu", current(**settings), smooth)
    assert launches() == total


@compiled
def test_a_linear_layer_refuses_what_its_kernel_would_misread():
    x, weight = torch.ones(BATCH, INPUTS), torch.ones(WIDTH, INPUTS)
    total = launches()
    with pytest.raises(RegistryError, match="backend 'cpu' computes in float32, not in torch.float64"):
        dispatch.linear("cpu", x.double(), weight.double(), None)
    with pytest.raises(RegistryError, match="backend 'cpu' computes on cpu, the tensor lies on meta"):
        dispatch.linear("cpu", x.to("meta"), weight.to("meta"), None)
    for backend in ("cpu", "auto"):
        with pytest.raises((TypeError, ValueError), match=r"signal.*torch\.float32.*torch\.float64"):
            dispatch.linear(backend, x, weight.double(), None)
    assert launches() == total
    assert torch.equal(dispatch.linear("cpu", x, weight, None), x @ weight.t())


@compiled
@pytest.mark.parametrize("grad", [True, False], ids=["update", "rollout"])
def test_a_network_on_a_named_backend_refuses_what_its_kernels_would_misread(grad):
    built, x = network(backend="cpu"), torch.ones(1, BATCH, INPUTS)
    with torch.set_grad_enabled(grad):
        with pytest.raises(RegistryError, match="backend 'cpu' computes in float32, not in torch.float64"):
            built(x.double(), None)
        assert built(x, None)[0].dtype == torch.float32
        built.double()
        with pytest.raises(TypeError, match="the weights are torch.float64"):
            built(x, None)
        built.float().soft_spike = True
        assert built(x, None)[0].dtype == torch.float32, "smooth spikes run on torch"
        built.set_backend("cpu")
        with pytest.raises(RegistryError, match="backend 'cpu' has no smooth spikes"):
            built(x, None)
        with pytest.raises(RegistryError, match="unknown backend 'gpu'"):
            built.set_backend("gpu")


# Chosen


@compiled
def test_auto_chooses_the_compiled_backend_of_the_device_and_says_so_once(caplog):
    caplog.set_level(logging.DEBUG)
    total = launches()
    for _ in range(2):
        unroll("auto", current())
        network()(torch.ones(1, BATCH, INPUTS), None)
    assert chosen(caplog) == [("DEBUG", "neurons on cpu run on the cpu backend")]
    assert launches() > total


@pytest.mark.parametrize(
    ("dtype", "smooth"), [(torch.float64, False), (torch.float16, False), (torch.float32, True)]
)
def test_auto_runs_on_torch_what_no_kernel_takes(dtype, smooth):
    total = launches()
    assert unroll("auto", current(dtype), smooth).dtype == dtype
    assert dispatch.linear("auto", *(torch.ones(2, 2, dtype=torch.float64),) * 2, None).dtype == torch.float64
    assert launches() == total


def test_auto_on_a_device_without_kernels_runs_on_torch_with_one_warning(caplog):
    for _ in range(2):
        assert dispatch.choose_backend("auto", current(device="meta"), ops()) is TORCH
    reason = "no backend compiles for meta"
    assert chosen(caplog) == [
        ("WARNING", f"neurons on meta run on the torch backend, which is slow: {reason}")
    ]


def test_two_backends_for_one_kind_of_device_are_refused(monkeypatch):
    monkeypatch.setattr(CUPY, "device", "cpu")
    with pytest.raises(RegistryError, match="backends 'cpu' and 'cupy' .* 'cpu'"):
        dispatch.list_compiled_backends.__wrapped__()


# CuPy


def no_gpu(monkeypatch, _):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def no_cupy(monkeypatch, _):
    cuda_machine(monkeypatch)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "cupy" else real(name, *a)
    )


def cupy_of_another_driver(monkeypatch, _):
    install(monkeypatch, is_available=lambda: False)


def cupy_that_does_not_load(monkeypatch, folder, error):
    """A CuPy whose import fails, of which therefore nothing else is seen."""
    cuda_machine(monkeypatch)
    (folder / "cupy.py").write_text(f"raise {error}\n", encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def cupy_without_its_libraries(monkeypatch, folder):
    cupy_that_does_not_load(monkeypatch, folder, "ImportError('libcublas.so.13: no such file')")


def cupy_without_a_cache(monkeypatch, folder):
    cupy_that_does_not_load(monkeypatch, folder, "PermissionError(13, 'Permission denied', '/nowhere/.cupy')")


def cupy_that_crashes(monkeypatch, _):
    install(monkeypatch, is_available=fail(RuntimeError("driver too old")))


def cupy_without_nvrtc(monkeypatch, _):
    install(monkeypatch, getVersion=fail(RuntimeError("CuPy failed to load libnvrtc.so.13")))


def cupy_without_headers(monkeypatch, _):
    install(monkeypatch)
    monkeypatch.setattr(cupy_backend, "has_cuda_headers", lambda: False)


def torch_for_rocm(monkeypatch, _):
    install(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")


REMEDY = r"remove it \(pip uninstall cupy-cuda12x cupy-cuda13x\) and install it in a clone: pip install '\.\[cuda(12)?\]'"
MACHINES = {
    no_gpu: r"torch sees no CUDA device; on a machine with one, install NVIDIA's driver and a CUDA build of torch",
    no_cupy: r"CuPy is not installed; install it in a clone: pip install '\.\[cuda(12)?\]'",
    cupy_of_another_driver: rf"CuPy sees no CUDA device, although torch does; its build must match the driver's CUDA version: {REMEDY}",
    cupy_without_its_libraries: rf"CuPy does not load \(ImportError: libcublas\.so\.13: no such file\); {REMEDY}",
    cupy_that_crashes: rf"CuPy does not load \(RuntimeError: driver too old\); {REMEDY}",
    cupy_without_nvrtc: rf"CuPy does not load \(RuntimeError: .*libnvrtc\.so\.13\); {REMEDY}",
    cupy_without_headers: r"CuPy finds no CUDA headers, .*; pip install 'cupy-cuda1[23]x\[ctk\]', or set CUDA_PATH to the folder",
    torch_for_rocm: r"torch is built for ROCm, and these kernels are for CUDA; on AMD's GPUs use network\.backend: torch",
    cupy_without_a_cache: r"CuPy does not load \(PermissionError: .*\); set CUPY_CACHE_DIR to a folder that can be written",
}


EXTRAS = {
    "12.8": ("cuda12", "cupy-cuda12x"),
    "13.0": ("cuda", "cupy-cuda13x"),
    None: ("cuda", "cupy-cuda13x"),
}


@pytest.mark.parametrize("version", EXTRAS)
@pytest.mark.parametrize("machine", [no_cupy, cupy_of_another_driver, cupy_that_crashes])
def test_the_remedy_names_the_extra_that_fits_the_cuda_of_torch(machine, version, monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.version, "cuda", version)
    extra, package = EXTRAS[version]
    assert CUPY.get_unavailable_reason().endswith(f"in a clone: pip install '.[{extra}]'")
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        (named,) = tomllib.load(file)["project"]["optional-dependencies"][extra]
    assert named.startswith(package)


@pytest.mark.parametrize(("version", "package"), [("12.8", "cupy-cuda12x"), ("13.0", "cupy-cuda13x")])
def test_headers_are_those_of_the_cuda_of_torch(version, package, monkeypatch):
    cupy_without_headers(monkeypatch, None)
    monkeypatch.setattr(torch.version, "cuda", version)
    assert f"pip install '{package}[ctk]'" in CUPY.get_unavailable_reason()


@pytest.mark.parametrize("machine", MACHINES)
def test_cupy_that_cannot_run_is_refused_by_name_and_left_out_by_auto(machine, monkeypatch, tmp_path, caplog):
    machine(monkeypatch, tmp_path)
    reason = MACHINES[machine]
    with pytest.raises(RegistryError, match=f"^backend 'cupy' is not available: {reason}"):
        dispatch.check("cupy")
    with pytest.raises(
        RegistryError, match=f"^agent.network.backend: backend 'cupy' is not available: {reason}"
    ):
        network(backend="cupy")
    assert [dispatch.resolve_auto("cuda") for _ in range(2)] == ["torch"] * 2
    ((level, line),) = chosen(caplog)
    assert level == "WARNING"
    assert line.startswith("neurons on cuda run on the torch backend, which is slow: ")
    assert line.removeprefix("neurons on cuda run on the torch backend, which is slow: ")[:8] in reason


def test_cupy_that_can_run_is_chosen_for_cuda_and_refuses_tensors_elsewhere(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    install(monkeypatch)
    assert dispatch.resolve_auto("cuda") == "cupy"
    assert chosen(caplog) == [("DEBUG", "neurons on cuda run on the cupy backend")]
    with pytest.raises(
        RegistryError, match="backend 'cupy' computes on cuda, the tensor lies on cpu; backend: torch"
    ):
        unroll("cupy", current())
    with pytest.raises(RegistryError, match="backend 'cupy' computes on cuda, the tensor lies on cpu"):
        network(backend="cupy")(torch.ones(1, BATCH, INPUTS), None)


# What auto leaves to torch


@pytest.mark.parametrize(
    ("dtype", "smooth", "reason"),
    [
        (torch.float64, False, "computes in float32, not in torch.float64"),
        (torch.bfloat16, False, "computes in float32, not in torch.bfloat16"),
        (torch.float32, True, "has no smooth spikes"),
    ],
)
def test_what_auto_leaves_to_torch_is_said_once_with_the_reason(dtype, smooth, reason, caplog):
    for _ in range(2):
        unroll("auto", current(dtype), smooth)
    line = f"neurons on cpu run on the torch backend, which is slow: backend 'cpu' {reason}"
    assert chosen(caplog) == [("WARNING", line)]
    unroll("torch", current(dtype), smooth)
    assert len(chosen(caplog)) == 1, "what is named is no surprise"


def test_a_network_that_is_compiled_says_it_too(caplog):
    x = torch.ones(1, BATCH, INPUTS, dtype=torch.float64)
    torch.compile(network().double(), backend="eager", fullgraph=True)(x, None)
    assert [line for _, line in chosen(caplog)] == [
        "neurons on cpu run on the torch backend, which is slow: backend 'cpu' computes in float32, not in torch.float64"
    ]


# What an agent says


def test_a_wrong_backend_is_named_with_its_place_before_anything_is_built():
    with pytest.raises(
        RegistryError, match="^agent.network.backend: unknown backend 'torhc'.*did you mean 'torch'"
    ):
        network(backend="torhc")


def test_bfloat16_where_the_cpu_has_none_is_refused_with_its_place(monkeypatch):
    monkeypatch.setattr(precision, "read_cpu_flags", lambda: frozenset({"GenuineIntel", "avx2"}))
    message = "^agent.network.gradient_precision: bfloat16 needs a CPU with one of amx_bf16, avx512_bf16, bf16; use auto"
    with pytest.raises(RegistryError, match=message):
        network(gradient_precision="bfloat16")
    assert not network(gradient_precision="auto").bfloat16_gradient
    assert not network(gradient_precision="float32").bfloat16_gradient


def test_bfloat16_is_taken_where_the_cpu_has_it_unless_float32_is_named(monkeypatch):
    monkeypatch.setattr(precision, "read_cpu_flags", lambda: frozenset({"GenuineIntel", "amx_bf16"}))
    wanted = {"bfloat16": True, "auto": True, "float32": False}
    assert {p: network(gradient_precision=p).bfloat16_gradient for p in wanted} == wanted


def test_a_backend_whose_class_is_defined_again_is_the_new_one_for_the_next_network(monkeypatch):
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    text = "from spiky_rl.kernels.backends.base import Backend\nclass Mine(Backend):\n    def run_neuron(self, run):\n        pass\n"
    for _ in range(2):
        exec(text, vars(module))
        dispatch.check("notebook:Mine")
        assert type(dispatch.require_backend("notebook:Mine")) is module.Mine
    dispatch._BUILT.pop("notebook:Mine")  # pylint: disable=protected-access
