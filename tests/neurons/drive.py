"""One neuron under a given current, in double precision: what the tests of all neurons share."""

import math

import torch

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import is_time_constant


def build(name, **options):
    """A neuron with these options."""
    return registry.configure("neurons", {"name": name, **options}, "neuron").build()


def numbers(neuron, **instead):
    """Its parameters as its step takes them; ``instead`` gives tensors [N] for some."""
    values = {name: instead.get(name, neuron.chosen[name]) for name in neuron.params}
    return tuple(
        math.exp(-neuron.dt / values[name]) if is_time_constant(param) else values[name]
        for name, param in neuron.params.items()
    )


def named(neuron):
    """The same, by name."""
    return neuron.named_params(*numbers(neuron))


def vocabulary(surrogate="arctangent"):
    """The op vocabulary with a surrogate's default slope."""
    return TorchOps(registry.configure("surrogates", surrogate, "surrogate").build())


def run(name, current, start=None, instead=None, **options):
    """Outputs [K, N] and the first state after each step, [K, N], for current [K, N]; ``start``: one value per state."""
    neuron = build(name, **options)
    start = [0.0] * len(neuron.states) if start is None else start
    state = tuple(torch.zeros_like(current[:1]) + x for x in start)
    trace = []
    with torch.no_grad():
        outputs, _ = dispatch.unroll(
            "torch",
            neuron,
            vocabulary(),
            current[None, :, None],
            len(current),
            state,
            numbers(neuron, **(instead or {})),
            trace=trace,
        )
    return outputs[0, :, 0], torch.cat(trace)


def constant(values, steps):
    """Current [K, N]: each of N values, held for K steps."""
    return torch.tensor(values, dtype=torch.float64).expand(steps, -1)


def spike_steps(spikes):
    """Steps of the spikes of one neuron, from spikes [K]."""
    return spikes.nonzero().flatten()


def intervals(spikes):
    """Steps between the spikes of one neuron."""
    return spike_steps(spikes).diff().tolist()
