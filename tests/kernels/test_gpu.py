"""The CuPy backend on a CUDA device: the reference's results, on torch's streams, in torch's graphs and memory.

These tests and those of test_gpu_recurrent.py need no host library. On a machine without the package's environment they need torch,
CuPy, NumPy, PyYAML, pytest and pydantic with its own three packages, pydantic_core, annotated_types and typing_inspection:

    python -m pytest -c /dev/null --rootdir . -m gpu tests/kernels/test_gpu.py tests/kernels/test_gpu_recurrent.py
"""

import itertools
import subprocess
import sys
import threading

import pytest
import torch

from spiky_rl.kernels import dispatch
from tests.contract import test_parity
from tests.kernels.cases import (
    CUPY,
    NEURONS,
    STEPS,
    compare,
    configured,
    distinct,
    inputs,
    near,
    network,
    run,
    vocabulary,
)

REASON = CUPY.get_unavailable_reason()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"backend cupy: {REASON}")]

TOLERANCE = 1e-5
"""Of states and gradients, relative to the largest."""
SHAPES = [(1, 1), (7, 37), (64, 200)]
"""B x N: less than a block of threads, ragged, and whole blocks."""
LATE = 200_000_000
"""Cycles for which a stream sleeps: a tenth of a second, in which a launch on another stream would be done."""


def leaf(tensor):
    """A copy on the device that wants its gradient."""
    return tensor.cuda().requires_grad_()


@pytest.mark.parametrize("learned", [False, True], ids=["numbers", "per-neuron"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_kernels_are_the_torch_reference_on_the_cpu(neuron, learned, monkeypatch):
    # CUDA's functions are within two units in the last place, where the C library's are within one
    monkeypatch.setitem(test_parity.TOLERANCES, neuron, 2.0 * test_parity.TOLERANCES.get(neuron, 1e-6))
    test_parity.test_compiled_neurons_are_the_reference(neuron, "arctangent", learned, "cupy")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes_episodes_and_constant_currents_are_the_references(shape, constant):
    neuron = configured("alif", True, tau=2.0)
    parameters, tensors = distinct(neuron, shape[1]), inputs(neuron, *shape, constant=constant)
    expected = run("torch", neuron, parameters, tensors)
    compare(run("cupy", neuron, parameters, tensors, device="cuda"), expected, TOLERANCE)


def test_forward_and_backward_are_launched_and_counted():
    neuron = configured("lif", False)
    before = CUPY.launches.total()
    run("cupy", neuron, distinct(neuron, 5), inputs(neuron, 3, 5), device="cuda")
    assert CUPY.launches.total() == before + 2


def test_no_samples_are_no_launch():
    neuron = configured("lif", True)
    before = CUPY.launches.total()
    found = run("cupy", neuron, distinct(neuron, 5), inputs(neuron, 0, 5), device="cuda")
    assert CUPY.launches.total() == before
    assert found[0].shape[2:] == (0, 5) and not any(t.any() for t in found)


def test_forward_and_backward_run_on_the_stream_that_is_current():
    neuron = configured("alif", True, tau=2.0)
    parameters, (source, state, keep) = distinct(neuron, 37), inputs(neuron, 7, 37)
    expected = run("torch", neuron, parameters, (source, state, keep))
    # once before, so that nothing is compiled while the stream sleeps
    run("cupy", neuron, parameters, (source, state, keep), device="cuda")
    source, current = source.cuda(), leaf(torch.zeros_like(source))
    state, keep = tuple(leaf(s) for s in state), keep.cuda()
    values = tuple(p.cuda() for p in parameters())
    g = torch.Generator().manual_seed(5)
    shapes = [expected[0].shape, *(s.shape for s in state)]
    late = [torch.randn(shape, generator=g).cuda() for shape in shapes]
    grads = [torch.zeros_like(t) for t in late]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(LATE)
        with torch.no_grad():
            current.copy_(source)
        y, last = dispatch.unroll("cupy", neuron, vocabulary(), current, STEPS, state, values, keep)
        torch.cuda._sleep(LATE)
        for grad, value in zip(grads, late, strict=True):
            grad.copy_(value)
        found = torch.autograd.grad((y, *last), [current, *state, *parameters.parameters()], grads)
    torch.cuda.synchronize()
    compare([t.detach().cpu() for t in (y, *last, *found)], expected, TOLERANCE)


def test_a_thread_that_never_saw_cupy_launches_too():
    neuron, found = configured("lif", False, tau=2.0), []
    parameters, tensors = distinct(neuron, 37), inputs(neuron, 7, 37)
    thread = threading.Thread(
        target=lambda: found.extend(run("cupy", neuron, parameters, tensors, device="cuda"))
    )
    thread.start()
    thread.join()
    compare(found, run("torch", neuron, parameters, tensors), TOLERANCE)


def test_a_captured_graph_of_forward_and_backward_follows_its_inputs():
    neuron = configured("alif", True, tau=2.0)
    parameters = distinct(neuron, 37)
    first, state, keep = inputs(neuron, 7, 37)
    current, states = leaf(first), tuple(leaf(s) for s in state)
    mask, values = keep.cuda(), [leaf(p.detach()) for p in parameters()]
    weight = torch.randn(first.shape, generator=torch.Generator().manual_seed(6))
    weights = weight.cuda()

    def step():
        y, last = dispatch.unroll("cupy", neuron, vocabulary(), current, STEPS, states, tuple(values), mask)
        return y, *last, *torch.autograd.grad(y, [current, *states, *values], weights)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    launched, outputs = CUPY.launches.total(), []
    for seed in (7, 8):
        changed, *_ = inputs(neuron, 7, 37, seed=seed)
        with torch.no_grad():
            current.copy_(changed)
        graph.replay()
        torch.cuda.synchronize()
        given = [t.detach().cpu().requires_grad_() for t in (changed, *state, *values)]
        own = given[1 : 1 + len(state)], given[1 + len(state) :]
        y, last = dispatch.unroll("torch", neuron, vocabulary(), given[0], STEPS, *map(tuple, own), keep)
        grads = torch.autograd.grad(y, given, weight)
        compare([t.detach().cpu() for t in captured], [t.detach() for t in (y, *last, *grads)], TOLERANCE)
        outputs.append(y.detach())
    assert not torch.equal(*outputs), "the inputs differed"
    assert CUPY.launches.total() == launched, "a replay is no launch of ours"


def test_a_capture_of_kernels_that_never_ran_says_what_to_do():
    neuron = configured("izhikevich", False, substeps=3)  # which no other test runs
    current, *_ = inputs(neuron, 7, 37)
    current, values = current.cuda(), distinct(neuron, 37)()
    call = (neuron, vocabulary(), current, STEPS, None, values)
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="before capturing a CUDA graph"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            dispatch.unroll("cupy", *call)
    y, _ = dispatch.unroll("cupy", *call)
    assert y.isfinite().all(), "outside of the capture they are compiled"


def test_all_memory_is_torchs():
    import cupy

    neuron = configured("alif", True)
    run("cupy", neuron, distinct(neuron, 200), inputs(neuron, 64, 200), device="cuda")
    assert cupy.get_default_memory_pool().total_bytes() == 0
    assert cupy.get_default_pinned_memory_pool().n_free_blocks() == 0


def test_a_device_that_is_not_the_current_one_is_launched_on():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"it takes two CUDA devices, torch sees {torch.cuda.device_count()}")
    neuron = configured("lif", True, tau=2.0)
    parameters, tensors = distinct(neuron, 37), inputs(neuron, 7, 37)
    expected = run("torch", neuron, parameters, tensors)
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        assert torch.cuda.current_device() == 0
        compare(run("cupy", neuron, parameters, tensors, device=device), expected, TOLERANCE)


def test_a_training_on_the_second_device_creates_no_context_on_the_first():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"it takes two CUDA devices, torch sees {torch.cuda.device_count()}")
    code = (
        "import torch; from tests.kernels.cases import network\n"
        "made, x = network('cupy', stateful=True).to('cuda:1'), torch.ones(2, 5, 19, device='cuda:1')\n"
        "for _ in range(2): made(x, made.zero_state(5, x))[0].sum().backward()\n"
        "torch.cuda.synchronize(1)\n"
        "print([torch._C._cuda_hasPrimaryContext(index) for index in (0, 1)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[False, True]"


@pytest.mark.parametrize("gradients_on", [False, True])
def test_a_tensor_of_the_host_is_refused_where_a_kernel_would_read_its_address(gradients_on):
    neuron = configured("lif", False, tau=2.0)
    current, state, keep = inputs(neuron, 7, 37)
    given = {"states": [s.cuda() for s in state], "keep": keep.cuda()}
    for name, host in (("states", state), ("keep", keep)):
        states, mask = {**given, name: host}.values()
        call = (vocabulary(), leaf(current), STEPS, tuple(states), distinct(neuron, 37)(), mask)
        with torch.set_grad_enabled(gradients_on), pytest.raises(TypeError, match=f"^{name}: on cpu given"):
            dispatch.unroll("cupy", neuron, *call)
    torch.cuda.synchronize()


@pytest.mark.parametrize("sparsity", [None, {"name": "synops", "weight": 40.0}], ids=["free", "penalty"])
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("learn", [[], ["tau", "threshold"]], ids=["numbers", "per-neuron"])
def test_a_networks_features_and_gradients_are_those_of_the_torch_backend(learn, stateful, sparsity):
    results = []
    for backend in ("cupy", "torch"):
        neuron = {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": learn}
        built = network(backend, neuron=neuron, stateful=stateful, sparsity=sparsity).cuda()
        g, time = torch.Generator().manual_seed(1), 3 if stateful else 1
        x = leaf(torch.randn(time, 100, 19, generator=g))
        state = tuple(leaf(s + 0.1) for s in built.zero_state(100, x)) if stateful else None
        keep = (torch.rand(time, 100, generator=g) > 0.4).float().cuda() if stateful else None
        y, last = built(x, state, keep)
        loss = (y * torch.randn(y.shape, generator=g).cuda()).sum() + sum(s.pow(2).sum() for s in last)
        grads = torch.autograd.grad(loss, [x, *(state or ()), *built.parameters()])
        results.append([t.detach() for t in (y, *last, *grads)])
    assert all(near(a, b, TOLERANCE) for a, b in zip(*results, strict=True))
    assert results[0][0].any()


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_network_compiles_into_one_graph(compiler):
    built = network("cupy").cuda()
    x = torch.randn(1, 100, 19, generator=torch.Generator().manual_seed(1)).cuda()
    results, before = [], CUPY.launches.total()
    for model in (built, torch.compile(built, fullgraph=True, backend=compiler)):
        built.zero_grad()
        y, _ = model(x, None)
        y.pow(2).mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in built.parameters())])
    assert CUPY.launches.total() > before + 4, "the compiled network launches the kernels as well"
    close = torch.isclose(results[0][0], results[1][0], rtol=1e-4, atol=1e-5).float().mean()
    if compiler == "aot_eager":  # the same operations
        assert close == 1.0
        assert all(near(b, a, TOLERANCE) for a, b in itertools.zip_longest(*results))
    # a compiler that fuses an encoder's products may flip a spike now and then
    assert close > 0.95
