"""The event solver: a network in continuous time, from spike to spike: ``python examples/exact/solver.py``.

Three neurons between two spike trains, as leaky, Izhikevich or Hodgkin-Huxley neurons. Spike times are those of the differential
equations, to the solver's tolerance, and not of a time step.
"""

from __future__ import annotations

import numpy as np

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import solve_network

NEURONS = [
    ({"name": "lif", "tau": 20.0, "input_gain": "ode"}, 1.0),
    ({"name": "izhikevich", "gain": 1.0}, 3.2),
    ({"name": "hodgkin_huxley", "gain": 1.0}, 4.0),
]
"""Neurons, and what their weights are multiplied by: the last two count in mV and uA/cm2."""
INPUTS = [[1.0, 9.0, 20.0], [3.0, 12.0, 22.0]]
"""Spike times in ms of the two inputs."""
DURATION = 60.0
"""In ms."""

# [neurons, inputs + neurons]: the inputs drive the first two neurons, and these the third
weights = np.array([[4.0, 2.0, 0.0, 0.0, 0.0], [1.5, 5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.5, 3.5, 0.0]])

for settings, scale in NEURONS:
    neuron = registry.configure("neurons", settings, "neuron").build()
    solution = solve_network(neuron, scale * weights, INPUTS, DURATION)
    print(f"{settings['name']}: {len(solution.spikes)} spikes, {len(solution.events)} events")
    for n in range(len(weights)):
        print(f"  neuron {n}: {'  '.join(f'{time:.6f}' for time in solution.times(n))} ms")
