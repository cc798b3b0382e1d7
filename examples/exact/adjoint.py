"""AutoAdjoint: exact gradients of spike times, for a neuron of one's own: ``python examples/exact/adjoint.py``.

The neuron is ``examples/adex.py``, which says nothing of gradients. From its flow, threshold and reset the adjoint of a network
in continuous time is derived, and compared with central differences of the same loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import Solution, solve_network

NEURON = Path(__file__).parents[1] / "adex.py"
INPUTS = [[1.0], [3.0]]
"""Spike times of the two inputs in ms."""
TARGETS = np.array([5.0, 9.0])
"""When the output neuron's first two spikes are wanted, in ms."""
OUTPUT, DURATION, STEP = 2, 10.0, 1e-3
WEIGHTS = np.array([[4.0, 2.0, 0.0, 0.0, 0.0], [1.5, 5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.5, 3.5, 0.0]])
"""[neurons, inputs + neurons]: the inputs drive the first two neurons, and these the third."""

neuron = registry.configure("neurons", {"name": f"{NEURON}:AdEx", "gain": 30.0}, "neuron").build()


def solved(weights: np.ndarray) -> tuple[Solution, np.ndarray]:
    """The network's solution, and what the output's spikes are late by, in ms."""
    solution = solve_network(neuron, weights, INPUTS, DURATION)
    return solution, solution.times(OUTPUT)[: len(TARGETS)] - TARGETS


solution, errors = solved(WEIGHTS)
print(f"spikes of the output at {TARGETS + errors} ms, loss {0.5 * errors @ errors:.6f} ms^2")
# dL/dt of every spike: of the output's first two the error, of all others none
of_spikes = np.zeros(len(solution.spikes))
of_spikes[[i for i, spike in enumerate(solution.spikes) if spike.neuron == OUTPUT][: len(TARGETS)]] = errors
gradient = solution.gradient(of_spikes).weights

print("weight      adjoint  differences")
for target, source in np.argwhere(WEIGHTS):
    losses = []
    for change in (STEP, -STEP):
        moved = WEIGHTS.copy()
        moved[target, source] += change
        losses.append(0.5 * np.square(solved(moved)[1]).sum())
    print(
        f"{source} -> {target}  {gradient[target, source]:11.6f}  {(losses[0] - losses[1]) / (2.0 * STEP):11.6f}"
    )
