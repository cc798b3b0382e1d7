"""SpikeProp: exclusive or, told by when neurons spike: ``python examples/exact/spike_times.py``.

A spike at 0 ms says false, one at 6 ms true; the output should come at 10 ms for true and at 16 ms for false (Bohte et al. 2002).
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiky_rl.exact.spike_times import SpikeTimeLayer, SrmKernels

KERNELS = SrmKernels(resolution=0.25)
"""What all neurons share: potentials that rise for 7 ms, looked at every 0.25 ms; spike times themselves are exact."""
INPUTS = torch.tensor([[[0.0], [a], [b]] for a in (0.0, 6.0) for b in (0.0, 6.0)], dtype=torch.float64)
"""Spike times in ms of a bias and two inputs, [4, 3, 1]."""
TARGETS = torch.tensor([16.0, 10.0, 10.0, 16.0], dtype=torch.float64)
RATE, EPOCHS, CLOSE = 0.001, 400, 0.5
"""Learning rate, most passes over the four patterns, and the error in ms at which they count as learned."""


def learn(seed: int) -> tuple[int, Tensor]:
    """Plain gradient descent on all four patterns: the epochs that it took, and the output's spike times [4] in ms."""
    generator = torch.Generator().manual_seed(seed)
    hidden = SpikeTimeLayer(3, 5, generator, signs=[1.0] * 3, kernels=KERNELS)
    output = SpikeTimeLayer(5, 1, generator, signs=[1.0, 1.0, 1.0, 1.0, -1.0], kernels=KERNELS)
    for epoch in range(EPOCHS):
        between = hidden(INPUTS)
        times = output(between)
        spiked = times[:, 0, 0].isfinite()
        errors = torch.where(spiked, times[:, 0, 0] - TARGETS, 0.0)  # a silent neuron has no gradient
        if bool(spiked.all()) and errors.abs().max() < CLOSE:
            return epoch, times[:, 0, 0].detach()
        gradients = torch.autograd.grad(0.5 * errors.square().sum(), (hidden.weights, output.weights))
        for layer, found, gradient in zip((hidden, output), (between, times), gradients, strict=True):
            layer.weights.data -= RATE * gradient
            layer.raise_silent_weights(found.detach())
    raise RuntimeError(f"seed {seed}: not learned in {EPOCHS} epochs")


if __name__ == "__main__":
    epochs, found = learn(seed=0)
    print(f"after {epochs} epochs:")
    for (_, a, b), time, target in zip(
        INPUTS[..., 0].tolist(), found.tolist(), TARGETS.tolist(), strict=True
    ):
        print(f"  {a:.0f} ms, {b:.0f} ms -> {time:.2f} ms, wanted {target:.0f} ms")
