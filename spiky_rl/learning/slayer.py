"""SLAYER: errors are correlated with the spike response in time, and weighted by the probability density of a spike change.

    delta_l = eps (correlation) (rho(V_l) . e_l),   dL/dW_l = sum_t delta_l(t) s_{l-1}(t)^T,   e_{l-1} = W_l^T delta_l

eps is the response of the neuron's potential to its input, rho the density that its spike changes (``density``). Reset and
refractoriness have no gradient: errors pass a neuron as if it had never been reset. This equals BPTT with such a reset, so it
runs on the same kernels and supports neurons with further states.

Source: Shrestha & Orchard (2018).
"""

from typing import override

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.learning._neuron_wrapper import GradientThroughReset
from spiky_rl.learning.base import LearningRule
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate


class Slayer(LearningRule):
    """SLAYER: backpropagation through spike responses; ``density`` replaces the network's surrogate."""

    parts = {"density": ("surrogates", "exponential")}

    def __init__(self, density: ComponentSpec) -> None:
        super().__init__()
        self.density: Surrogate = density.build()

    @override
    def choose_surrogate(self, surrogate: Surrogate) -> Surrogate:
        return self.density

    @override
    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        return GradientThroughReset.wrap(neuron, "slayer")
