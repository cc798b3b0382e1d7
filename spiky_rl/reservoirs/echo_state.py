"""Echo-state network: the rate-based reservoir that spiking reservoirs are compared with.

    x(t) = tanh(W^T x(t-1) + W_in^T u(t))

Source: Jaeger (2001).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csgraph, csr_array

DENSITY = 0.1
"""Share of possible synapses in a random network."""
ReservoirFunction = Callable[[np.ndarray], np.ndarray]
"""A reservoir as a function, the argument of every measure: inputs [series, time, channels] -> states [series, time, N]; each series
starts from rest."""


def echo_state(
    weights: np.ndarray,
    input_weights: np.ndarray,
    activation: Callable[[np.ndarray], np.ndarray] = np.tanh,
) -> ReservoirFunction:
    """Return the drive of an echo-state network with ``weights`` [N, N], from row to column, and ``input_weights`` [channels, N]."""

    def drive(u: np.ndarray) -> np.ndarray:
        currents = u @ input_weights
        states = np.empty(currents.shape)
        x = np.zeros((len(u), len(weights)))
        for t in range(u.shape[1]):
            x = activation(x @ weights + currents[:, t])
            states[:, t] = x
        return states

    return drive


def has_cycle(weights: np.ndarray) -> bool:
    """Return whether a graph with these ``weights`` [N, N] has a cycle, which may be a synapse of a neuron onto itself."""
    parts, _ = csgraph.connected_components(csr_array(weights != 0), connection="strong")
    return parts < len(weights) or bool(weights.diagonal().any())


def scale_weights(weights: np.ndarray, spectral_radius: float) -> np.ndarray:
    """Return ``weights`` scaled to a ``spectral_radius``. Raises ValueError if their graph has no cycles."""
    largest = np.abs(np.linalg.eigvals(weights)).max()
    if largest < 1e-9:
        raise ValueError("the graph has no cycles, so its spectral radius is always 0")
    return weights * (spectral_radius / largest)


def draw_echo_state(
    size: int,
    generator: np.random.Generator,
    spectral_radius: float = 0.9,
    input_scaling: float = 0.4,
) -> ReservoirFunction:
    """Return the drive of a common random network with one input: sparse normal weights and uniform input weights.

    The absolute input weights are at most ``input_scaling``. A network without cycles, as small ones may be, is drawn again.
    """
    weights = np.zeros((size, size))
    while not has_cycle(weights):
        weights = generator.normal(size=(size, size)) * (generator.random((size, size)) < DENSITY)
    input_weights = generator.uniform(-input_scaling, input_scaling, (1, size))
    return echo_state(scale_weights(weights, spectral_radius), input_weights)
