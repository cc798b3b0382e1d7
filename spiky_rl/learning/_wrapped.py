"""A neuron that runs in the place of another: the same dynamics under a rule of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels.programs import component
from spiky_rl.neurons.base import Neuron, Ode, States, naming


class Wrapped(Neuron):
    """Keeps an ODE neuron's states first, behind them those that it has ``more`` of, and the neuron's parameters."""

    own: ClassVar[tuple[str, ...]] = ()
    """Names of what is chosen for the wrapper itself; all else is the neuron's."""
    more: ClassVar[tuple[str, ...]] = ()
    """States of its own."""

    def __init__(self, of: str, **chosen: Any) -> None:
        """``of``: the neuron's class as `registry.resolve` takes it; the rest: what `wrap` was given, and its options."""
        cls = component("neurons", of)
        self.inner: Ode = cls(**{k: v for k, v in chosen.items() if k not in self.own})
        super().__init__(of=of, dt=self.inner.dt, learn=self.inner.learn, **_without(chosen, ("dt", "learn")))
        self.params, self.options = cls.params, cls.options  # type: ignore[misc]
        self.states = (*cls.states, *self.more)  # type: ignore[misc]
        self.named_states = naming(States, self.states) if self.more else cls.named_states
        self.named_params, self.named_times = cls.named_params, cls.named_times

    @classmethod
    def wrap(cls, neuron: Neuron, rule: str, **own: Any) -> Wrapped:
        """In the place of ``neuron``. Raises RegistryError for one that is no ODE with a threshold and a reset."""
        if not isinstance(neuron, Ode):
            raise RegistryError(
                f"name: {type(neuron).__name__.lower()!r} has no threshold and reset of its own, which {rule!r} needs"
            )
        of = type(neuron)
        return cls(of=f"{of.__module__}:{of.__qualname__}", **neuron.chosen, **own)

    @property
    def declared(self) -> Neuron:  # noqa: D102
        return self.inner

    def limits(self, name: str) -> tuple[float | None, float | None]:  # noqa: D102
        return self.inner.limits(name)


def _without(chosen: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if key not in names}


class Unreset(Wrapped):
    """The same neuron, through whose reset the gradient passes as if there were none."""

    def __init__(self, of: str, **chosen: Any) -> None:
        super().__init__(of, **chosen)
        self.substeps = self.inner.substeps

    def step(self, ops: Any, current: Any, s: Any, p: Any) -> tuple[Any, States]:  # noqa: D102
        s = self.inner.integrate(ops, current, s, p)
        spike = ops.spike(self.inner.distance(ops, s, p))
        return spike, self._reset(ops, ops.detach(spike), s, p)

    def advance(self, ops: Any, current: Any, peak: Any, s: Any, p: Any) -> tuple[Any, States]:  # noqa: D102
        s = self.inner.integrate(ops, current, s, p)
        distance = self.inner.distance(ops, s, p)
        return ops.max(distance, peak), self._reset(ops, ops.heaviside(distance), s, p)

    def emit(self, ops: Any, peak: Any, s: Any, p: Any) -> tuple[Any, States]:  # noqa: D102
        return ops.spike(peak), s

    def _reset(self, ops: Any, spike: Any, s: States, p: Any) -> States:
        after = self.inner.reset(ops, spike, s, p)
        # the value after the reset, the gradient before it: the difference is zero
        return self.named_states(
            *(ops.detach(a) + (b - ops.detach(b)) for a, b in zip(after, s, strict=True))
        )
