"""Event-driven products are the dense ones: rows that do not depend on the batch, exact gradients, bits there and back."""

import pytest
import torch

from spiky_rl.kernels import dispatch, operators, programs
from tests.kernels.cases import CPU

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)

SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (64, 64, 16),
    (65, 130, 17),
    (37, 400, 200),
    (10, 63, 8),
    (130, 20, 450),
    (6, 40, 3),
]
RATES = [0.0, 0.05, 0.5, 1.0]


def case(rows, inputs, outputs, rate, binary=True):
    g = torch.Generator().manual_seed(rows + inputs)
    x = (torch.rand(rows, inputs, generator=g) < rate).float()
    if not binary:
        x = x * torch.randn(rows, inputs, generator=g)
    weight = torch.randn(outputs, inputs, generator=g)
    return x, weight, torch.randn(outputs, generator=g), torch.randn(rows, outputs, generator=g)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("binary", [True, False])
def test_product_and_its_gradients_are_the_dense_ones(shape, rate, binary):
    x, weight, bias, grad = case(*shape, rate, binary)
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = operators.linear(*inputs, binary, False)
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    scale = expected.abs().max().clamp(min=1.0)
    assert (y - expected).abs().max() < 1e-6 * scale * max(1, shape[1]) ** 0.5
    found = torch.autograd.grad(y, inputs, grad)
    wanted = (grad.double() @ weight.double(), grad.double().t() @ x.double(), grad.double().sum(0))
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 2e-6 * b.abs().max().clamp(min=1.0) * max(shape) ** 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_is_the_same_bits_alone_in_a_batch_dense_and_by_events(shape):
    x, weight, bias, _ = case(*shape, 0.3)
    bits = torch.zeros(shape[0], programs.count_words(shape[1]), dtype=torch.int64)
    y = CPU.linear_forward(x, bits, weight, bias, True)
    assert torch.equal(y, CPU.linear_forward(x, None, weight, bias, False)), "dense"
    assert torch.equal(bits, CPU.pack(x)), "the events that the backward pass reads"
    for r in range(shape[0]):
        assert torch.equal(y[r : r + 1], CPU.linear_forward(x[r : r + 1], None, weight, bias, True))


@pytest.mark.parametrize("shape", [*SHAPES, (23, 19, 70)], ids=str)
@pytest.mark.parametrize("binary", [True, False])
def test_a_row_does_not_depend_on_how_many_come_with_it(shape, binary):
    # values, unlike spikes, would show a multiply-add that one copy of a loop fuses and another does not
    x, weight, bias, _ = case(*shape, 0.7, binary=False)
    x = x.sign().abs() if binary else x
    y = CPU.linear_forward(x, None, weight, bias, binary)
    for rows in (1, 2, 5, 7, 64):
        parts = [CPU.linear_forward(part, None, weight, bias, binary) for part in x.split(rows)]
        assert torch.equal(y, torch.cat(parts)), rows


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 64), (4, 65), (1, 1), (7, 2, 200)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_events_survive_packing_into_bits(shape, dtype):
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4).to(dtype)
    backend = dispatch.choose_backend("auto", x)
    bits = backend.pack(x.view(-1, shape[-1]))
    assert bits.dtype == torch.int64 and bits.numel() == x.numel() // shape[-1] * -(-shape[-1] // 64)
    assert torch.equal(backend.unpack(bits, shape[-1]).view(shape).to(dtype), x)


def test_graded_events_are_counted_by_value_not_by_presence():
    x, weight, bias, _ = case(5, 9, 20, 0.4, binary=False)
    assert torch.allclose(
        CPU.linear_forward(x, None, weight, bias, False),
        torch.nn.functional.linear(x, weight, bias),
        atol=1e-5,
    )
