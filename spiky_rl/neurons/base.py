"""What every neuron is: declared states and parameters, and one pure step.

The step is written once, against the vocabulary of ``ops`` that it gets by argument (see `spiky_rl.kernels.ops`):
arithmetic, comparison and a handful of functions. All else is derived from it: the torch reference and its gradient,
the documentation, the tests.

Order of one step, for every neuron: integrate the states over one step with this step's input, spike where the
potential is at or above the threshold, reset in the same step. Rest is zero for every state, because both hosts write
zeros to reset.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from spiky_rl.registry import Component, Option, RegistryError, nearest


@dataclass(frozen=True)
class Param(Option):
    """A number of the neuron that enters its step and may be learned."""

    transform: str = ""
    """``decay``: a time constant, which enters the step as exp(-dt / value)."""


DT = Option(1.0, "inner time step", low=1e-6, unit="ms")
LEARN = Option([], "parameters to learn, one value per neuron")


class Neuron(Component):
    """The dynamics of one neuron for one step.

    An instance holds the options that shape the step (``reset``, ``input_gain``, ...); the numbers that enter it
    (``params``) are its arguments, so that they can be learned and differ between neurons.
    """

    states: ClassVar[tuple[str, ...]]
    params: ClassVar[Mapping[str, Param]]

    def __init__(self, **chosen: Any) -> None:
        self.chosen = chosen
        self.dt: float = chosen["dt"]
        self.learn: tuple[str, ...] = tuple(chosen["learn"])

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        for name in options["learn"]:
            if name not in cls.params:
                raise RegistryError(
                    f"{path}.learn: {name!r} is no parameter of this neuron; it has {', '.join(cls.params)}{nearest(name, cls.params)}"
                )

    @abstractmethod
    def step(self, ops: Any, current: Any, *states_and_params: Any) -> tuple[Any, tuple[Any, ...]]:
        """Advance by ``dt``: input current, states, parameters -> output and the new states.

        Every argument has the shape [..., N] or broadcasts to it.
        """
