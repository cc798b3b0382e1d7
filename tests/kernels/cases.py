"""What the kernels are tested with: neurons, distinct parameters for every one of them, and inputs of ragged sizes."""

from typing import Any

import torch

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks._layer import NeuronParameters

NEURONS, SURROGATES = registry.list_names("neurons"), registry.list_names("surrogates")
TIME, STEPS = 3, 2
CPU: Any = dispatch.get_backend("cpu")
CUPY: Any = dispatch.get_backend("cupy")


def configured(name, learned, **options):
    """A neuron of the registry that learns all of its parameters, or none."""
    learn = list(registry.resolve("neurons", name).params) if learned else []
    return registry.configure("neurons", {"name": name, "learn": learn, **options}, "neuron").build()


def vocabulary(surrogate="arctangent"):
    return TorchOps(registry.configure("surrogates", surrogate, "surrogate").build())


def distinct(neuron, width, seed=3):
    """The neuron's parameters, of which the learned ones have another value for every neuron."""
    parameters = NeuronParameters(neuron, width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters.parameters():
            p.mul_(1.0 + 0.1 * torch.rand(p.shape, generator=generator))
    return parameters


def inputs(neuron, batch, width, time=TIME, steps=STEPS, constant=False, seed=4):
    """Current [T, K or 1, B, N], one state [B, N] each, keep mask [T, B]."""
    g = torch.Generator().manual_seed(seed)
    current = 3.0 * torch.randn(time, 1 if constant else steps, batch, width, generator=g) + 2.0
    state = tuple(0.1 * torch.randn(batch, width, generator=g) for _ in neuron.states)
    return current, state, (torch.rand(time, batch, generator=g) > 0.3).float()


def run(backend, neuron, parameters, tensors, steps=STEPS, device="cpu"):
    """Outputs, last states, and the gradients of current, states and parameters: everything to compare, on the CPU."""
    current, *state, keep = (t.detach().to(device) for t in (tensors[0], *tensors[1], tensors[2]))
    wanted = [t.requires_grad_() for t in (current, *state)]
    # parameters by the CPU whatever the device: another exp gives other decays
    values = tuple(p.to(device) if isinstance(p, torch.Tensor) else p for p in parameters())
    y, last = dispatch.unroll(backend, neuron, vocabulary(), current, steps, tuple(state), values, keep)
    g = torch.Generator().manual_seed(5)
    loss = sum((t * torch.randn(t.shape, generator=g).to(device)).sum() for t in (y, *last))
    grads = torch.autograd.grad(loss, [*wanted, *parameters.parameters()])
    return [t.detach().cpu() for t in (y, *last, *grads)]


def near(found, expected, tolerance):
    """Relative to the largest."""
    return (found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6)


def compare(found, expected, tolerance):
    """What `run` gives: outputs to the bit, states and gradients nearly."""
    assert torch.equal(found[0], expected[0]), "outputs"
    for i, (a, b) in enumerate(zip(found[1:], expected[1:], strict=True)):
        assert near(a, b, tolerance), f"state or gradient {i}"


def network(backend, **options):
    """The same weights whatever the backend; input gradients in float32, so that they can be compared."""
    torch.manual_seed(0)
    base = {"name": "feedforward", "layers": [70, 33], "steps": 4, "gradient_precision": "float32"}
    base |= {"neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"}, "backend": backend}
    return registry.configure("networks", {**base, **options}, "network").build(inputs=19, outputs=3)
