"""A neuron that runs in the place of another: the same dynamics under a rule of its own."""

from __future__ import annotations

from typing import Any, ClassVar, Self, override

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels.programs import load_component
from spiky_rl.neurons.base import Neuron, Ode, Ops, Params, States, Value, make_named_type


class NeuronWrapper(Neuron):
    """Keeps an ODE neuron's states first, behind them those that it has ``more`` of, and the neuron's parameters."""

    own_values: ClassVar[tuple[str, ...]] = ()
    """Names of the wrapper's own numbers."""
    more: ClassVar[tuple[str, ...]] = ()
    """States of its own."""

    def __init__(self, inner: Ode, **own: float) -> None:
        super().__init__(inner.options)
        kind = type(inner)
        self.inner, self.params, self.substeps = inner, inner.params, 1
        self.chosen = {"inner": f"{kind.__module__}:{kind.__qualname__}", **inner.chosen, **own}
        self.states = (*inner.states, *self.more)  # type: ignore[misc]
        self.named_states = make_named_type(States, self.states) if self.more else inner.named_states
        self.named_params, self.named_times = inner.named_params, inner.named_times

    @classmethod
    def from_class(cls, inner: str, **values: Any) -> Self:
        """The same again, from what it was chosen to be: the class ``inner``, and ``values``, its options and the wrapper's own numbers."""
        own = {name: values.pop(name) for name in cls.own_values}
        return cls(load_component("neurons", inner).from_options(**values), **own)

    @classmethod
    def wrap(cls, neuron: Neuron, rule: str, **own: float) -> Self:
        """In the place of ``neuron``, with numbers of its ``own``.

        Raises RegistryError, in which ``rule`` names who needs it, for a neuron that is no ODE with a threshold and a reset.
        """
        if not isinstance(neuron, Ode):
            raise RegistryError(
                f"name: {type(neuron).__name__.lower().removesuffix('neuron')!r} has no threshold and reset of its own, which {rule!r} needs"
            )
        return cls(neuron, **own)

    @property
    def source_neuron(self) -> Neuron:
        return self.inner

    @override
    def get_parameter_range(self, name: str) -> tuple[float | None, float | None]:
        return self.inner.get_parameter_range(name)


class GradientThroughReset(NeuronWrapper):
    """The same neuron, through whose reset the gradient passes as if there were none."""

    def __init__(self, inner: Ode) -> None:
        super().__init__(inner)
        self.substeps = inner.substeps

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        s = self.inner.integrate(ops, current, s, p)
        spike = ops.spike(self.inner.distance(ops, s, p))
        return spike, self._reset(ops, ops.detach(spike), s, p)

    @override
    def substep(self, ops: Ops, current: Value, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        s = self.inner.integrate(ops, current, s, p)
        distance = self.inner.distance(ops, s, p)
        return ops.max(distance, peak), self._reset(ops, ops.heaviside(distance), s, p)

    @override
    def finish_step(self, ops: Ops, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        return ops.spike(peak), s

    def _reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        after = self.inner.reset(ops, spike, s, p)
        # the value after the reset, the gradient before it: the difference is zero
        return self.named_states(
            *(ops.detach(a) + (b - ops.detach(b)) for a, b in zip(after, s, strict=True))
        )
