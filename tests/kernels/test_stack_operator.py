"""The compiled operator computes what the stack computes from Python, to the bit, in trainings with small batches."""

import copy
import gc
import itertools
import logging
import threading
import time

import pytest
import torch
import torch.utils.checkpoint

from spiky_rl.config import registry
from spiky_rl.kernels import compiler, stack, stack_operator
from spiky_rl.kernels.compiler import CompileError
from tests.kernels.cases import CPU
from tests.kernels.test_stack import BATCH, PAID, SPARSE, build, observations

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)
NEVER = 1 << 60


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What the operator returned in each call; it is used from the first one."""
    assert stack_operator.load_operator() is not None, "torch's headers compile where kernels do"
    returned = []

    def find(samples):
        operator = stack_operator.find_operator(samples)
        if operator is None:
            return None

        def run(*arguments):
            returned.append(operator(*arguments))
            return returned[-1]

        return run

    monkeypatch.setattr(stack_operator, "CALLS", 0)
    monkeypatch.setattr(stack, "find_operator", find)
    return returned


def train(network, x):
    """Output and gradients, of the input too if it has one."""
    inputs = [each for each in (*network.parameters(), x) if each.requires_grad]
    y, _ = network(x, None)
    gradients = torch.autograd.grad(y.square().sum() + y.sum(), inputs, allow_unused=True)
    return [y, *(g for g in gradients if g is not None)]


def train_from_python(network, x, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stack_operator, "CALLS", NEVER)
        return train(network, x)


CASES = [
    *({"encoder": encoder, "decoder": decoder} for encoder, decoder in itertools.product(["direct", "population"], ["membrane", "rate"])),
    *({"decoder": {"name": "membrane", "read": read}, "sparsity": PAID} for read in ("mean", "max")),
    {"sparsity": PAID},
    {"sparsity": PAID, "gradient_precision": "bfloat16", "recompute": True},
    {"connection": {**SPARSE, "dale": True}, "sparsity": PAID},
    {"connection": {"name": "linear", "bias": False}},
]  # fmt: skip


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize(("time", "batch"), [(1, 1), (1, BATCH), (3, 5)])
def test_outputs_and_gradients_have_the_bits_of_the_stack(settings, time, batch, calls, monkeypatch):
    network, x = build(**settings), observations(time, batch).requires_grad_()
    expected = train_from_python(network, x, monkeypatch)
    assert not calls
    found = train(network, x)
    assert len(calls) == 1 and calls[0], "the operator ran"
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert all(gradient.any() for gradient in found[1:])


@pytest.mark.parametrize("neuron", registry.list_names("neurons"))
def test_every_neuron_has_the_bits_of_the_stack(neuron, calls, monkeypatch):
    network, x = build(neuron={"name": neuron}), 3.0 * observations()
    expected = train_from_python(network, x, monkeypatch)
    found = train(network, x)
    assert len(calls) == 1 and calls[0]
    assert all(map(torch.equal, found, expected))


def test_threads_share_a_network(calls, monkeypatch):
    network = build(sparsity=PAID)
    inputs = [observations(batch=batch) for batch in (3, 8, BATCH)]
    expected = [train_from_python(network, x, monkeypatch) for x in inputs]
    found = [[] for _ in inputs]
    workers = [
        threading.Thread(target=lambda i=i, x=x: found[i].extend(train(network, x) for _ in range(50)))
        for i, x in enumerate(inputs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 150 and all(calls)
    for several, one in zip(found, expected, strict=True):
        assert all(all(map(torch.equal, each, one)) for each in several)


def test_several_openmp_threads_have_the_bits_of_the_stack(calls, monkeypatch):
    before = torch.get_num_threads()
    network, x = build(), observations(batch=300)
    try:
        torch.set_num_threads(2)
        expected = train_from_python(network, x, monkeypatch)
        found = train(network, x)
    finally:
        torch.set_num_threads(before)
    assert calls[0] and all(map(torch.equal, found, expected))


def test_a_changed_slope_weight_and_parameter_are_followed(calls, monkeypatch):
    network, x = build(), observations()
    first = train(network, x)
    network.surrogate.slope *= 3.0
    with torch.no_grad():
        network.layers[0].connection.weight.mul_(0.5)
    found, expected = train(network, x), train_from_python(network, x, monkeypatch)
    assert len(calls) == 2 and all(calls)
    assert all(map(torch.equal, found, expected)) and not torch.equal(found[1], first[1])


def test_a_graph_may_outlive_the_network_and_its_plans(calls, monkeypatch):
    network = build(sparsity=PAID)
    inputs = [observations(batch=batch).requires_grad_() for batch in range(1, 40)]
    expected = [train_from_python(network, x, monkeypatch)[-1] for x in inputs]
    losses = []
    for x in inputs:
        y, _ = network(x, None)
        losses.append(y.square().sum() + y.sum())
    assert all(calls)
    del network, y
    calls.clear()
    gc.collect()
    torch.randn(1 << 20)
    for x, loss, gradient in zip(inputs, losses, expected, strict=True):
        assert torch.equal(torch.autograd.grad(loss, x)[0], gradient)


def test_only_the_penalty_or_only_the_output_may_have_a_gradient(calls, monkeypatch):
    x = observations()

    def count(network):
        """Each layer's rates, and the gradient of the first layer's."""
        weight = network.layers[0].connection.weight
        _, _, counted = network._get_stack(stack_backend)(
            x.unsqueeze(1), network.steps, ops, None, None, True, network.decoder.readout.bias
        )
        return [*counted, torch.autograd.grad(counted[0].sum(), weight)[0]]

    network = build(sparsity=PAID)
    train(network, x)
    stack_backend = network._stack_backend
    ops = stack.TorchOps(network.surrogate, network.surrogate.slope)
    found = count(network)
    with monkeypatch.context() as patch:
        patch.setattr(stack_operator, "CALLS", NEVER)
        assert all(map(torch.equal, count(network), found)) and all(each.any() for each in found)
    assert len(calls) == 2 and all(calls)


def test_weights_that_kernels_cannot_read_go_the_old_way(calls, monkeypatch):
    network, x = build(), observations()
    expected = train_from_python(network, x, monkeypatch)
    connection = network.layers[1].connection
    connection.weight = torch.nn.Parameter(connection.weight.detach().t().contiguous().t())
    assert not connection.weight.is_contiguous()
    assert all(map(torch.equal, train(network, x), expected)) and calls == [[]]
    connection.weight = torch.nn.Parameter(connection.weight.detach().double())
    with pytest.raises(TypeError, match="float64"):
        train(network, x)
    connection.weight = torch.nn.Parameter(torch.randn(4, 5))
    with pytest.raises(ValueError, match="weight: shape"):
        train(network, x)
    assert not any(calls)


def test_recurrent_learned_and_stateful_networks_go_the_old_way(calls):
    x = observations(3)
    for settings in ({"neuron": {"name": "lif", "learn": ["tau"]}}, {"recurrent": {"name": "recurrent"}}):
        train(build(**settings), x)
    network = build(stateful=True)
    network(x, network.zero_state(BATCH, x))[0].sum().backward()
    assert not calls


def test_a_second_derivative_and_a_changed_weight_are_refused(calls):
    network, x = build(), observations().requires_grad_()
    with pytest.raises(RuntimeError, match="kernels have no second derivative"):
        torch.autograd.grad(network(x, None)[0].square().sum(), x, create_graph=True)
    y, _ = network(x, None)
    with torch.no_grad():
        network.layers[0].connection.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert len(calls) == 2 and all(calls)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: torch.randn(5, 5),
        lambda weight: weight.double(),
        lambda weight: weight.bfloat16(),
        lambda weight: weight.t().contiguous().t(),
    ],
    ids=["shape", "double", "bfloat16", "strides"],
)
def test_a_weight_whose_data_changed_before_the_backward_pass_is_refused_or_read_right(change, calls):
    network, x = build(), observations().requires_grad_()
    (expected,) = torch.autograd.grad(network(x, None)[0].square().sum(), x)
    loss, weight = network(x, None)[0].square().sum(), network.layers[1].connection.weight
    before = weight.data
    weight.data = change(before)
    if weight.shape == before.shape and weight.dtype == before.dtype:
        assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    else:
        with pytest.raises((TypeError, ValueError, RuntimeError), match="type or shape"):
            torch.autograd.grad(loss, x)
    assert len(calls) == 2 and all(calls)


def test_a_checkpoint_may_begin_before_the_operator_and_end_with_it(calls, monkeypatch):
    network, x = build(sparsity=PAID), observations().requires_grad_()
    monkeypatch.setattr(stack_operator, "CALLS", 1)
    monkeypatch.setattr(stack_operator, "_calls", type(stack_operator._calls)())
    y = torch.utils.checkpoint.checkpoint(lambda x: network(x, None)[0], x, use_reentrant=False)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    assert len(calls) == 1 and calls[0] and found.any()


def test_another_default_device_and_number_of_threads_change_nothing(calls, monkeypatch):
    network, x, before = build(), observations(batch=300), torch.get_num_threads()
    found = []
    for limit in (NEVER, 0):
        monkeypatch.setattr(stack_operator, "CALLS", limit)
        try:
            torch.set_num_threads(1)
            with torch.device("meta"):
                y, _ = network(x, None)
            torch.set_num_threads(2)
            found.append(torch.autograd.grad(y.square().sum(), list(network.parameters())))
        finally:
            torch.set_num_threads(before)
    assert len(calls) == 1 and calls[0] and all(map(torch.equal, *found))


def test_threads_that_load_it_at_once_wait_for_one_of_them(monkeypatch):
    monkeypatch.setattr(stack_operator, "_load_once", stack_operator._load_once.__wrapped__)
    inside, most = [], []

    def compile_slowly(*_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        raise CompileError("none")

    monkeypatch.setattr(compiler, "compile_library", compile_slowly)
    workers = [threading.Thread(target=stack_operator.load_operator) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] * 4


def test_it_begins_after_many_calls_and_leaves_large_batches_alone(calls, monkeypatch):
    monkeypatch.setattr(stack_operator, "CALLS", 3)
    monkeypatch.setattr(stack_operator, "_calls", type(stack_operator._calls)())
    network = build()
    for _ in range(3):
        train(network, observations())
    train(network, observations(batch=stack_operator.MAX_SAMPLES + 1))
    with torch.no_grad():
        network(observations(), None)
    assert not calls
    train(network, observations())
    assert len(calls) == 1


def test_without_torchs_headers_python_runs_the_stack_and_says_so(calls, monkeypatch, caplog):
    def refuse(*_):
        raise CompileError("no such header")

    monkeypatch.setattr(compiler, "compile_library", refuse)
    monkeypatch.setattr(stack_operator, "_load_once", stack_operator._load_once.__wrapped__)
    network, x = build(), observations()
    expected = train_from_python(copy.deepcopy(network), x, monkeypatch)
    with caplog.at_level(logging.INFO):
        found = train(network, x)
    assert all(map(torch.equal, found, expected)) and not calls
    assert "no such header" in caplog.text
