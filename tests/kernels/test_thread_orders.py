"""A device promises no order of blocks, nor of threads between two barriers: the CUDA text gives the CPU kernels' bits in any of them."""

import itertools

import pytest
import torch

from spiky_rl.kernels import programs
from spiky_rl.kernels.backends import cupy as cupy_backend
from tests.kernels import fake_cupy, host_device, test_cuda_on_host, test_fake_cupy, test_recurrent
from tests.kernels.cases import CPU, CUPY
from tests.kernels.test_fake_cupy import plain_products  # noqa: F401  # a fixture
from tests.kernels.test_recurrent import FEEDBACKS, NEURONS

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

ORDERS = {"reversed": host_device.REVERSED, "permuted": host_device.PERMUTED}


def fast(cases, some):
    """Return the ``cases`` as parameters, of which only ``some`` are tried in the fast tests."""
    assert set(some) <= set(cases)
    return [pytest.param(*case, marks=[pytest.mark.slow] * (case not in some)) for case in cases]


def compare_recurrent(neuron, feedback, order, settings, threads=32, width=37):
    """Check that a recurrent loop, forward and backward, has the CPU's results where it is run in an ``order``."""
    (expected, states, gradients), _ = test_recurrent.both(neuron, feedback, width, **settings)
    with pytest.MonkeyPatch.context() as patch, host_device.ordered(order):
        patch.setattr(cupy_backend, "MAX_THREADS", threads)
        with fake_cupy.on_the_host() as cupy:
            (found, last, others), _ = test_recurrent.both(neuron, feedback, width, **settings)
    assert cupy.launches == {"spiky_recurrent_forward": 1, "spiky_recurrent_backward": 1}
    if neuron == "sigma_delta":  # graded output is multiplied, on the CPU with one rounding
        assert test_recurrent.relative(found, expected) < 2e-6
    else:
        assert torch.equal(found, expected) and test_recurrent.equal(last, states)
    assert max(test_recurrent.relative(a, b) for a, b in zip(others, gradients, strict=True)) < 2e-6


SETTINGS = {"all": {}, "constant": {"constant": True}, "cut": {"cut": True}, "from rest": {"state": False}}
LOOPS = list(itertools.product(NEURONS, FEEDBACKS, ORDERS, SETTINGS, [32, 256]))
FAST = [(neuron, "both", order, "all", 32) for neuron in NEURONS for order in ORDERS]


@pytest.mark.parametrize(("neuron", "feedback", "order", "settings", "threads"), fast(LOOPS, FAST))
def test_a_recurrent_loop_in_any_order_has_the_bits_of_the_cpu_kernels(
    neuron, feedback, order, settings, threads
):
    compare_recurrent(neuron, feedback, ORDERS[order], SETTINGS[settings], threads)


@pytest.mark.parametrize(
    ("program", "order"),
    fast(
        list(itertools.product(test_cuda_on_host.PROGRAMS, ORDERS)),
        [(("alif", "arctangent", True), order) for order in ORDERS],
    ),
)
def test_every_neuron_in_any_order_has_the_bits_of_the_cpu_kernels(program, order, monkeypatch):
    monkeypatch.setattr(CUPY, "_launch", host_device.launch)
    with host_device.ordered(ORDERS[order]):
        test_cuda_on_host.test_cuda_text_gives_the_bits_of_the_cpu_kernels(*program, (7, 37))


@pytest.mark.parametrize("order", ORDERS)
def test_spikes_in_any_order_are_the_cpus_bits_and_come_back(order):
    with host_device.ordered(ORDERS[order]):
        test_fake_cupy.test_spikes_are_kept_as_the_cpus_bits_and_come_back((7, 130), 700)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("agent", test_fake_cupy.agents())
def test_every_agents_network_in_any_order_is_that_of_the_cpus_kernels(agent, order, plain_products):
    with host_device.ordered(ORDERS[order]):
        test_fake_cupy.test_every_agents_network_is_that_of_the_cpus_kernels(agent, None)


BARRIERS = {
    "after the past is cleared": "sent.clear(step);\n  __syncthreads();",
    "after the past is written": "d - 1, n)]);\n  }\n  __syncthreads();",
    "after an episode's end": "sent.clear(step - d);\n        __syncthreads();",
    "after a step": "before, s);\n      }\n      __syncthreads();",
    "after its spikes are written": "sent.clear(step + 1);\n      __syncthreads();",
    "after an adjoint's step": "vector[n] = gi;\n      }\n      __syncthreads();",
}
"""Where the loop of a recurrent layer waits."""


@pytest.mark.slow
@pytest.mark.parametrize("place", BARRIERS)
def test_a_barrier_that_is_left_out_is_caught(place, monkeypatch):
    right, header = BARRIERS[place], programs.read_header
    assert header("recurrent_gpu").count(right) == 1
    assert header("recurrent_gpu").count("__syncthreads();") == len(BARRIERS)
    without = header("recurrent_gpu").replace(right, right.replace("__syncthreads();", ""))
    monkeypatch.setattr(
        programs, "read_header", lambda name: without if name == "recurrent_gpu" else header(name)
    )
    for order in ORDERS.values():
        with pytest.raises(AssertionError):
            compare_recurrent("alif", "both", order, {})
