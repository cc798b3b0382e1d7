"""Wrappers of neurons, by which a learning rule changes their gradient or their spikes."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Self, override

import torch

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.kernels.programs import load_component
from spiky_rl.neurons.base import Neuron, Ode, Ops, Params, States, Value, make_named_type


class NeuronWrapper(Neuron):
    """Wrapper of an ODE neuron, with the neuron's parameters and states and optionally further states."""

    own_values: ClassVar[tuple[str, ...]] = ()
    """Names of the wrapper's own constants."""
    more: ClassVar[tuple[str, ...]] = ()
    """Names of the wrapper's further states, which follow the neuron's."""

    def __init__(self, inner: Ode, **own: float) -> None:
        super().__init__(inner.options)
        kind = type(inner)
        self.inner, self.params, self.substeps, self.own = inner, inner.params, 1, own
        # the prefix keeps the wrapper's values apart from the neuron's options, which may have any name
        own_chosen = {f"wrapper.{name}": value for name, value in own.items()}
        self.chosen = {
            "wrapper.inner": f"{kind.__module__}:{kind.__qualname__}",
            **inner.chosen,
            **own_chosen,
        }
        self.states = (*inner.states, *self.more)  # type: ignore[misc]
        self.named_states = make_named_type(States, self.states) if self.more else inner.named_states
        self.named_params, self.named_times = inner.named_params, inner.named_times

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle cannot store the types of a wrapper's states and parameters, which are made for this instance
        return partial(type(self), **self.own), (self.inner,)

    @override
    @classmethod
    def from_options(cls, **values: Any) -> Self:
        """Rebuild a wrapper from its ``chosen`` values: the name of the neuron's class, the neuron's options, and own constants."""
        inner = load_component("neurons", values.pop("wrapper.inner"))
        own = {name: values.pop(f"wrapper.{name}") for name in cls.own_values}
        return cls(inner.from_options(**values), **own)

    @classmethod
    def wrap(cls, neuron: Neuron, rule: str, **own: float) -> Self:
        """Wrap ``neuron`` with ``own`` constants. Raises RegistryError naming ``rule`` if the neuron is not an `Ode`."""
        if not isinstance(neuron, Ode):
            package, _, name = type(neuron).__module__.rpartition(".")
            if package != "spiky_rl.neurons":
                name = type(neuron).__name__
            raise RegistryError(
                f"name: {name!r} is not available with {rule!r}, which needs a neuron with a threshold and a reset"
            )
        return cls(neuron, **own)

    @property
    def source_neuron(self) -> Neuron:
        return self.inner

    @override
    def get_parameter_range(self, name: str) -> tuple[float, float]:
        return self.inner.get_parameter_range(name)


class GradientThroughReset(NeuronWrapper):
    """Wrapper with the same output; the gradient passes through the reset as if there were none."""

    def __init__(self, inner: Ode) -> None:
        super().__init__(inner)
        self.substeps = inner.substeps

    @override
    @classmethod
    def wrap(cls, neuron: Neuron, rule: str, **own: float) -> Self:
        """Wrap ``neuron`` as `NeuronWrapper.wrap`. Raises RegistryError too for a learned parameter that acts in the reset alone."""
        wrapped = super().wrap(neuron, rule, **own)
        for name in wrapped.list_parameters_without_gradient():
            raise RegistryError(
                f"learn: {name!r} given; allowed with {rule!r}: parameters that also act outside the reset, which has no gradient"
            )
        return wrapped

    def list_parameters_without_gradient(self) -> list[str]:
        """Return the learned parameters that no gradient reaches in three inner steps."""
        if not self.learn:
            return []
        values = [torch.tensor([self.get_step_value(name)]).requires_grad_() for name in self.params]
        rest = tuple(torch.zeros(1, 1) for _ in self.states)
        current = torch.ones(1, 3, 1, 1)
        try:
            with torch.enable_grad():
                output, last = dispatch.unroll(
                    dispatch.REFERENCE, self, SPIKELESS, current, 3, rest, tuple(values), None
                )
                total = output.sum() + sum(state.sum() for state in last)
            gradients = torch.autograd.grad(total, values, allow_unused=True)
        except Exception:  # pylint: disable=broad-exception-caught
            return []  # the check of neurons, which follows, names the fault of a step that does not run
        reached = {name for name, each in zip(self.params, gradients, strict=True) if each is not None}
        return [name for name in self.learn if name not in reached]

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        if self.substeps > 1:
            return self.run_substeps(ops, current, s, p)
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
        # the value after the reset, with the gradient of the value before it: x - detach(x) is zero
        return self.named_states(
            *(ops.detach(value) + (x - ops.detach(x)) for value, x in zip(after, s, strict=True))
        )
