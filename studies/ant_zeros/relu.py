"""Rectified linear unit of an ANN: y = max(0, I). A unit whose output is 0 reaches no synapse.

The state is the output, so that the energy of a unit has one write and one read of it, as that of every ANN's unit.
"""

from typing import override

from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value


class Relu(Neuron):
    """Unit of an ANN whose zeros cost nothing."""

    graded = True
    states = ("y",)

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        y = ops.max(current, 0.0)
        return y, s.replace(y=y)
