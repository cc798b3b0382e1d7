"""Echo-state network: the rate-based reservoir that a spiking one is compared with.

    x(t) = tanh(W^T x(t-1) + W_in^T u(t))

Source: Jaeger (2001).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DENSITY = 0.1
"""Share of the possible synapses that a random network has."""
Drive = Callable[[np.ndarray], np.ndarray]
"""What every reservoir's metric takes: inputs [series, time, channels] -> states [series, time, N], each series from rest."""


def echo_state(
    weights: np.ndarray,
    input_weights: np.ndarray,
    activation: Callable[[np.ndarray], np.ndarray] = np.tanh,
) -> Drive:
    """The drive of a network.

    Args:
        weights: [N, N], from row to column.
        input_weights: [channels, N].
        activation: Activation function of every neuron.
    """

    def drive(u: np.ndarray) -> np.ndarray:
        arriving = u @ input_weights
        states = np.empty(arriving.shape)
        x = np.zeros((len(u), len(weights)))
        for t in range(u.shape[1]):
            x = activation(x @ weights + arriving[:, t])
            states[:, t] = x
        return states

    return drive


def scaled(weights: np.ndarray, spectral_radius: float) -> np.ndarray:
    """The ``weights`` times what gives them this ``spectral_radius``. Raises ValueError where they have no cycles to scale."""
    largest = np.abs(np.linalg.eigvals(weights)).max()
    if largest < 1e-9:
        raise ValueError("a graph without cycles has spectral radius 0 and keeps it")
    return weights * (spectral_radius / largest)


def random_echo_state(
    size: int,
    generator: np.random.Generator,
    spectral_radius: float = 0.9,
    input_scaling: float = 0.4,
) -> Drive:
    """The drive of a network of one input as they are commonly drawn: sparse normal weights, uniform input weights.

    Args:
        size: N.
        generator: Random generator of the weights.
        spectral_radius: Spectral radius of the recurrent ones.
        input_scaling: Largest size of an input weight.
    """
    weights = generator.normal(size=(size, size)) * (generator.random((size, size)) < DENSITY)
    input_weights = generator.uniform(-input_scaling, input_scaling, (1, size))
    return echo_state(scaled(weights, spectral_radius), input_weights)
