"""The pooled convolution's kernels: torch's numbers where sums are exact, its gradients, and bits that depend on a row alone."""

import itertools
import math

import pytest
import torch
from torch.library import opcheck
from torch.nn import functional

from spiky_rl.kernels import convolution, dispatch
from spiky_rl.kernels.backends.cpu import load_convolution_kernels
from tests.kernels.cases import CPU

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)
ROWS = 9
GEOMETRIES = [  # maps, outputs, kernel, stride, padding, pool
    ((2, 11, 13), 3, 5, 1, 0, 2),
    ((3, 9, 8), 16, 3, 1, 1, 2),
    ((1, 12, 10), 33, 3, 2, 2, 2),
    ((12, 9, 9), 20, 5, 1, 2, 3),
    ((5, 8, 7), 7, 2, 3, 0, 1),
    ((7, 10, 9), 4, 7, 1, 3, 2),
    ((4, 6, 6), 70, 1, 1, 0, 4),
    ((3, 20, 18), 2, 4, 1, 0, 15),
    ((9, 13, 14), 40, 3, 1, 1, 2),
    ((8, 14, 15), 33, 5, 1, 0, 1),
    ((8, 7, 8), 17, 3, 1, 0, 1),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(shape, most, seed):
    """Small whole numbers: their sums are exact in any order, and many are equal."""
    return torch.randint(-most, most + 1, shape, generator=generator(seed)).float()


def problem(geometry, binary, real=False, rows=ROWS):
    """Signal, weight, bias, and the rest of `Backend.convolution`'s arguments."""
    maps, outputs, kernel, *rest = geometry
    x = whole((rows, math.prod(maps)), 3, 1) * (
        torch.rand(rows, math.prod(maps), generator=generator(2)) < 0.3
    )
    shapes = ((outputs, maps[0], kernel, kernel), (outputs,))
    draws = [torch.randn(s, generator=generator(3)) if real else whole(s, 2, 3) for s in shapes]
    tensors = [(x != 0).float() if binary else x, *draws]
    return [t.requires_grad_() for t in tensors], (maps, *rest, binary)


def run(backend, tensors, rest, bfloat16=False):
    *geometry, binary = rest
    return dispatch.choose_backend(backend, tensors[0]).convolution(*tensors, geometry, binary, bfloat16)


def results(backend, tensors, rest, bfloat16=False):
    """Currents and the gradients of all tensors, for a gradient of whole numbers."""
    y = run(backend, tensors, rest, bfloat16)
    return y, *torch.autograd.grad(y, tensors, whole(y.shape, 4, 5).to(y.dtype))


def operands(geometry, binary):
    (x, weight, bias), (maps, *rest, _) = problem(geometry, binary, real=True)
    return x, weight, bias, [*maps, weight.shape[0], weight.shape[-1], *rest], binary, False


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "numbers"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_where_sums_are_exact_currents_and_gradients_are_torchs_first_maximum_included(
    geometry, binary, bfloat16
):
    tensors, rest = problem(geometry, binary)
    found = results("cpu", tensors, rest, bfloat16)
    expected = results("torch", tensors, rest)
    for mine, true in zip(found, expected, strict=True):
        assert torch.equal(mine, true) and mine.abs().sum() > 0


@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "numbers"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_currents_and_gradients_are_those_of_float64_to_a_part_in_a_million(geometry, binary):
    tensors, rest = problem(geometry, binary, real=True)
    found = results("cpu", tensors, rest)
    expected = results("torch", [t.detach().double().requires_grad_() for t in tensors], rest)
    for mine, true in zip(found, expected, strict=True):
        assert (mine - true).norm() < 1e-6 * true.norm()


@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "numbers"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_in_bfloat16_what_is_multiplied_is_rounded_and_what_is_added_is_not(geometry, binary):
    tensors, rest = problem(geometry, binary, real=True)
    y = run("cpu", tensors, rest, bfloat16=True)
    gradient = torch.randn(y.shape, generator=generator(6))
    found = torch.autograd.grad(y, tensors, gradient)
    compiled = load_convolution_kernels().spiky_has_bfloat16()
    rounded = [(t.detach().bfloat16() if compiled else t.detach()).double() for t in (*tensors[:2], gradient)]
    x, weight, given = (t.requires_grad_() for t in rounded)
    maps, stride, padding, pool, _ = rest

    def currents(x, weight):
        return functional.conv2d(x.view(-1, *maps), weight, tensors[2].double(), stride, padding)

    exact = currents(*(t.double() for t in tensors[:2]))
    where = functional.max_pool2d(exact, pool, return_indices=True)[1].flatten(2)
    largest = currents(x, weight).flatten(2).gather(2, where)
    expected = torch.autograd.grad(largest.flatten(1), (x, weight), given)
    for mine, true in zip(found, (*expected, gradient.double().view_as(largest).sum((0, 2))), strict=True):
        assert (mine - true).norm() < 1e-6 * true.norm()


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("geometry", [*GEOMETRIES[:4], *GEOMETRIES[-3:]], ids=str)
def test_a_row_has_the_same_bits_alone_in_a_batch_without_gradient_and_on_two_threads(geometry, bfloat16):
    tensors, rest = problem(geometry, binary=False, real=True, rows=40)
    x, weight, bias = tensors
    alone = torch.cat([run("cpu", (row[None], weight, bias), rest) for row in x])
    found = results("cpu", tensors, rest, bfloat16)
    with torch.no_grad():
        assert torch.equal(run("cpu", (x, weight, bias), rest), found[0])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        again = results("cpu", tensors, rest, bfloat16)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, found[0])
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))


@pytest.mark.parametrize("geometry", GEOMETRIES[:4], ids=str)
def test_what_is_no_number_is_the_largest_as_for_torch(geometry):
    (x, weight, bias), rest = problem(geometry, binary=False)
    broken = x.detach().clone()
    broken[::2, :: broken.shape[1] // 2] = torch.nan
    found, expected = (run(b, (broken, weight.abs() + 1, bias), rest) for b in ("cpu", "torch"))
    assert expected.isnan().any() and not expected.isnan().all()
    assert torch.equal(found.nan_to_num(1e9), expected.nan_to_num(1e9))


@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "numbers"])
@pytest.mark.parametrize(
    "geometry", [GEOMETRIES[0], *(pytest.param(g, marks=pytest.mark.slow) for g in GEOMETRIES[1:4])], ids=str
)
def test_it_passes_all_checks_of_torch(geometry, binary):
    arguments = operands(geometry, binary)
    opcheck(torch.ops.spiky_rl.convolution.default, arguments)
    x, weight, *rest = arguments
    y, place, bits = torch.ops.spiky_rl.convolution(*arguments)
    saved = (bits if binary else x.detach(), place, weight.detach(), torch.ones_like(y), *rest[1:])
    for inputs in (False, True):
        opcheck(torch.ops.spiky_rl.convolution_backward.default, (*saved, inputs))


def test_only_wanted_gradients_are_computed():
    tensors, rest = problem(GEOMETRIES[0], binary=True)
    _, *expected = results("cpu", tensors, rest)
    for wanted in itertools.product([False, True], repeat=3):
        given = [t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
        y = run("cpu", given, rest)
        assert y.requires_grad == any(wanted)
        if any(wanted):
            y.backward(whole(y.shape, 4, 5))
        found = [None if t.grad is None else t.grad.tolist() for t in given]
        assert found == [g.tolist() if want else None for g, want in zip(expected, wanted, strict=True)]


def test_strided_arguments_are_those_in_one_piece_and_no_rows_give_no_gradient():
    tensors, rest = problem(GEOMETRIES[0], binary=False)
    turned = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in tensors]
    assert not turned[0].is_contiguous()
    found, expected = (results("cpu", given, rest) for given in (turned, tensors))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for backend in ("cpu", "torch"):
        y, of_x, *others = results(backend, [tensors[0][:0], *tensors[1:]], rest)
        assert y.shape == (0, expected[0].shape[1])
        assert len(of_x) == 0 and not any(g.any() for g in others)


def test_blocks_too_large_for_the_kernel_and_other_types_are_torchs():
    geometry = ((2, 18, 18), 3, 2, 1, 0, convolution.LARGEST_POOL + 1)
    tensors, rest = problem(geometry, binary=False)
    before = CPU.launches["convolution"]
    found, expected = (results(backend, tensors, rest) for backend in ("cpu", "torch"))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    tensors, rest = problem(GEOMETRIES[0], binary=False)
    assert (
        results("auto", [t.detach().double().requires_grad_() for t in tensors], rest)[0].dtype
        == torch.float64
    )
    assert CPU.launches["convolution"] == before
    results("auto", tensors, rest)
    assert CPU.launches["convolution"] == before + 1


def test_what_does_not_fit_is_refused_before_a_kernel_reads_it():
    (x, weight, bias), rest = problem(GEOMETRIES[0], binary=False)
    for given in (
        (x[:, 1:], weight, bias),
        (x, weight[:, :1], bias),
        (x, weight, bias[1:]),
        (x, weight.double(), bias),
    ):
        for enabled in (True, False):
            with (
                torch.set_grad_enabled(enabled),
                pytest.raises(ValueError, match="maps of 2 x 11 x 13: .*expected"),
            ):
                run("cpu", given, rest)


def test_a_second_derivative_is_refused():
    tensors, rest = problem(GEOMETRIES[0], binary=False)
    y = run("cpu", tensors, rest)
    with pytest.raises(RuntimeError, match="no second derivative; backend: torch has"):
        (slope,) = torch.autograd.grad(y.pow(2).sum(), tensors[1], create_graph=True)
        slope.sum().backward()
