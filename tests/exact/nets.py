"""Small networks in continuous time with their golden values: what tests and the figure of the adjoint share.

Two hidden neurons and an output neuron; the loss is half the squared distance of the output's first two spikes from TARGETS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spiky_rl.config import registry
from spiky_rl.exact.adjoint import AdjointGradients, Solution, solve_network
from spiky_rl.neurons.base import Ode, States, parameter
from spiky_rl.neurons.lif import Lif

OUTPUT = 2
EARLY = ((1.0, 9.0), (3.0, 12.0))
LATE = ((1.0, 9.0, 20.0), (3.0, 12.0, 22.0))
WEIGHTS = ((4.0, 2.0), (1.5, 5.0), (4.5, 3.5))
"""Inputs to the first and the second neuron, and these two to the output."""
OWN = "tests.exact.nets:"
SLOW = {"tau": 20.0, "input_gain": "ode"}
"""The leaky membrane that the golden values are of."""


class Partial(Lif):
    """A leaky neuron that a spike lowers by 0.8, whatever its threshold."""

    def reset(self, ops: Any, spike: Any, s: Any, p: Any) -> States:
        return s.replace(v=s.v - 0.8 * spike)


class Ringing(Ode):
    """Resonate-and-fire, rates per ms: spikes on its second state, halves the first and clears the second."""

    states = ("x", "y")

    class Options(Ode.Options):
        damping: float = parameter(0.05, "damping", low=0.0, unit="1/ms")
        omega: float = parameter(0.3, "angular frequency", low=0.0, unit="rad/ms")

    def flow(self, ops: Any, current: Any, s: Any, p: Any) -> States:
        x = current - p.damping * s.x - p.omega * s.y
        return s.rates(x=x, y=p.omega * s.x - p.damping * s.y)

    def threshold(self, ops: Any, s: Any, p: Any) -> Any:
        return s.y - 1.0

    def reset(self, ops: Any, spike: Any, s: Any, p: Any) -> States:
        return s.replace(x=s.x * (1.0 - 0.5 * spike), y=s.y * (1.0 - spike))

    def integrate(self, ops: Any, current: Any, s: Any, p: Any) -> States:
        rates = self.flow(ops, current, s, p)
        return s.replace(x=s.x + self.dt * rates.x, y=s.y + self.dt * rates.y)


@dataclass(frozen=True)
class Net:
    """A network and what is known of it."""

    neuron: Mapping[str, Any]
    scale: float = 1.0
    weights: Sequence[Sequence[float]] = WEIGHTS
    inputs: Sequence[Sequence[float]] = LATE
    duration: float = 60.0
    targets: Sequence[float] = (10.0, 25.0)
    recurrent: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """(target, source) -> weight among the neurons, on top."""
    loss: float = 0.0
    gradient: Sequence[float] = ()
    """dL/d the six weights, in the order of WEIGHTS."""

    def matrix(self) -> np.ndarray:
        """[3, inputs + 3]."""
        matrix = np.zeros((3, 5))
        matrix[:2, :2], matrix[2, 2:4] = self.weights[:2], self.weights[2]
        matrix *= self.scale
        for (target, source), weight in self.recurrent.items():
            matrix[target, 2 + source] = weight
        return matrix

    def solve(self, **instead: Any) -> Solution:
        """With arguments of `solve` in place of the net's own."""
        neuron = registry.configure("neurons", dict(self.neuron), "neuron").build()
        given = {"weights": self.matrix(), "input_times": self.inputs, "duration": self.duration, **instead}
        return solve_network(neuron, **given)

    def loss_of(self, solution: Solution) -> float:
        """Half the squared distances from the targets."""
        found = solution.times(OUTPUT)[: len(self.targets)]
        return 0.5 * float(((found - self.targets) ** 2).sum())

    def gradient_of(self, solution: Solution) -> AdjointGradients:
        """Of that loss."""
        rates, left = np.zeros(len(solution.spikes)), list(self.targets)
        for i, spike in enumerate(solution.spikes):
            if spike.neuron == OUTPUT and left:
                rates[i] = spike.time - left.pop(0)
        return solution.gradient(rates)


def six(gradients: AdjointGradients) -> np.ndarray:
    """dL/d the six weights of a net, in the order of WEIGHTS."""
    return np.concatenate([gradients.weights[:2, :2].ravel(), gradients.weights[2, 2:4]])


GOLDEN = Net(
    {"name": "lif", "reset": "zero", **SLOW},
    inputs=EARLY,
    duration=50.0,
    loss=34.532443582,
    gradient=(18.787754968, 17.358242672, 5.085141837, 4.542969075, 2.850437943, 3.402276880),
)
RECURRENT = Net(
    GOLDEN.neuron,
    inputs=EARLY,
    duration=50.0,
    recurrent={(0, 1): -1.0, (1, 0): 1.2, (0, 2): 0.3},
    loss=21.775069463,
    gradient=(-0.385682589, -0.326193253, 5.158232089, 4.291417621, 13.15902391, 25.07837212),
)
NETS = {
    "lif": Net(
        {"name": "lif", "reset": "zero", **SLOW},
        loss=34.53244358,
        gradient=GOLDEN.gradient,
    ),
    "lif, subtract": Net({"name": "lif", "reset": "subtract", **SLOW}),
    "lif, own reset": Net(
        {"name": f"{OWN}Partial", **SLOW},
        loss=48.59035017,
        gradient=(10.649400648, 8.852310790, 5.240403732, 4.353842209, 3.080897895, 3.069302983),
    ),
    "alif": Net(
        {"name": "alif", "reset": "zero", "tau_adaptation": 100.0, "adaptation": 0.15, **SLOW},
        scale=1.4,
        loss=78.37557068,
        gradient=(11.556673020, 7.405390722, 5.388806919, 3.798381279, 4.780747450, 3.955017971),
    ),
    "alif, subtract": Net({"name": "alif", "tau_adaptation": 30.0, "adaptation": 0.3, **SLOW}, scale=1.4),
    "quadratic": Net(
        {"name": "quadratic", "tau": 10.0, "critical": 1.0, "peak": 2.0, "reset": -0.5},
        scale=0.8,
        loss=20.32571883,
        gradient=(10.174573432, 8.559724058, 4.618090871, 4.111970928, 4.369143350, 4.536432940),
    ),
    "izhikevich": Net(
        {"name": "izhikevich", "gain": 1.0},
        scale=3.2,
        loss=94.29846633,
        gradient=(0.243626856, 0.041994981, 2.245677427, 1.206461589, 26.752277783, 25.949649172),
    ),
    "resonate": Net(
        {
            "name": "resonate",
            "omega": 300.0,
            "damping": 50.0,
            "gain": 1000.0,
            "tau_refractory": 10.0,
            "refractory": 0.5,
            "dt": 1.0,
        },
        scale=0.1,
    ),
    "own resonate": Net(
        {"name": f"{OWN}Ringing"},
        scale=0.075,
        loss=44.14805294,
        gradient=(105.466462046, 77.454312807, 58.665277929, 43.968424161, 55.876060110, 50.387578720),
    ),
    "hodgkin_huxley": Net(
        {"name": "hodgkin_huxley", "gain": 1.0},
        weights=((6.0, 3.0), (2.5, 5.0), (4.5, 2.5)),
        inputs=((1.0,), (2.0,)),
        duration=14.0,
        targets=(5.0,),
        loss=1.16774810,
        gradient=(-0.18120127, -0.07621884, -0.24362433, -0.15743664, -0.51337901, -0.35065798),
    ),
}
"""One per neuron. A net of the registry's without a golden loss has no twin in the source of the golden values."""
