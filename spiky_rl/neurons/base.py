"""What every neuron is: declared states and parameters, and one pure step.

The step is written once, against the vocabulary of ``ops`` that it gets by argument (see `spiky_rl.kernels.ops`):
arithmetic, comparison and a handful of functions. All else is derived from it: the torch reference and its gradient, the
kernels for GPU and CPU and theirs, the documentation, the tests.

Order of one step, for every neuron: integrate the states over one step with this step's input, spike where the
potential is at or above the threshold, reset in the same step. Rest is zero for every state, because both hosts write
zeros to reset.

States come as ``s`` and parameters as ``p``, by name: ``s.v``, ``p.threshold``. A parameter with ``transform="decay"`` is a time constant
that enters as its decay exp(-dt / value), ``p.decay`` for ``tau`` and ``p.decay_w`` for ``tau_w``; in `flow` alone it comes in ms, as
``p.tau``. New states are the old ones with changes: ``s.replace(v=...)``. So the order of a declaration means nothing. What ``s.v`` and
``p.decay`` are, and what may be done with them, is the type `Value`; a neuron's file imports it and its like from here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from spiky_rl.config.options import (
    Names,
    OptionInfo,
    RegistryError,
    Settings,
    get_options,
    option,
    suggest_name,
)
from spiky_rl.config.registry import Component
from spiky_rl.neurons._values import Ops, ReferenceOps, Value

__all__ = [
    "BELOW_ANY",
    "DETACH_RESET",
    "DT",
    "Neuron",
    "Ode",
    "Ops",
    "Params",
    "ReferenceOps",
    "States",
    "Value",
    "inner_step",
    "is_time_constant",
    "make_named_type",
    "parameter",
    "surrogate_scale",
]

BELOW_ANY = -1e30
"""Where a maximum over sub-steps starts."""
PLAUSIBLE = 1e6
"""Largest parameter of a neuron that says nothing else: 1,000 s as a time constant, which a float of 32 bits still tells from none."""


def parameter(
    default: float,
    meaning: str,
    *,
    unit: str = "",
    transform: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare an option that is a parameter: a number of the neuron that enters its step and may be learned.

    Args:
        default: Where an agent does not say.
        meaning: What it is.
        unit: Must be said; ``1`` is that of a pure number, or of one measured in other parameters.
        transform: ``decay``: a time constant, which enters the step as exp(-dt / value).
        low: Least value; None: `PLAUSIBLE` below zero.
        high: Largest value; None: `PLAUSIBLE`.
        above: A bound that the value has to exceed.
    """
    if low is None and above is None:
        low = -PLAUSIBLE
    high = PLAUSIBLE if high is None else high
    return option(
        default, meaning, low=low, high=high, above=above, unit=unit, param=True, transform=transform
    )


def inner_step(default: float) -> Any:
    """Declare the option ``dt``, in ms, with a ``default`` of the neuron's own."""
    return option(default, "inner time step", low=1e-6, high=1000.0, unit="ms")


DT = inner_step(1.0)
DETACH_RESET = option(True, "whether gradients stop at the reset")


def surrogate_scale(default: float, unit: str = "1") -> Any:
    """Declare the option ``scale``, a ``default`` in this ``unit``, of a neuron whose potential is not measured in thresholds."""
    return option(
        default, "distance to the threshold that counts as one for the surrogate", low=1e-3, unit=unit
    )


def is_time_constant(declared_param: OptionInfo) -> bool:
    """Whether the parameter that ``declared_param`` declares is a time constant that enters the step as its decay."""
    return declared_param.extra.get("transform") == "decay"


def _params(options: type[Settings]) -> dict[str, OptionInfo]:
    return {name: each for name, each in get_options(options).items() if each.extra.get("param")}


class NamedValues(tuple[Value, ...]):
    """Values by name."""

    __slots__ = ()
    _fields: tuple[str, ...]

    if TYPE_CHECKING:

        def __new__(cls, *_: Value, **__: Value) -> Self: ...

        def _asdict(self) -> dict[str, Value]: ...

    def __getattr__(self, name: str) -> Value:
        """The value of that name; at run time this is what is asked for in vain."""
        decay = decay_of(name)
        hint = f"; a time constant enters a step as its decay: p.{decay}" if decay in self._fields else ""
        raise AttributeError(f"{self._unknown(name)}{hint}")

    def _unknown(self, name: str) -> str:
        return f"there is no {name!r}, but {', '.join(self._fields)}{suggest_name(name, self._fields)}"


class Params(NamedValues):
    """A neuron's parameters."""

    __slots__ = ()


class States(NamedValues):
    """A neuron's states."""

    __slots__ = ()

    def replace(self, **changed: Value) -> Self:
        """These states, those that are ``changed`` by name as they are then."""
        if len(changed) < len(self):
            changed = {**dict(zip(self._fields, self, strict=True)), **changed}
        try:
            return self.__class__(**changed)
        except TypeError:
            unknown = next(name for name in changed if name not in self._fields)
            raise AttributeError(self._unknown(unknown)) from None

    def rates(self, **changes: Value) -> Self:
        """The rate of every state per ms, for `Ode.flow`: its ``changes`` by name, 0 where none is named."""
        return self.__class__(*[0.0] * len(self)).replace(**changes)


def make_named_type[Kind: NamedValues](kind: type[Kind], names: Iterable[str]) -> type[Kind]:
    """The ``kind``, states or parameters, of these ``names`` in this order."""
    fields = namedtuple(kind.__name__, tuple(names))  # type: ignore[misc]
    return type(kind.__name__, (kind, fields), {"__slots__": ()})  # type: ignore[return-value]


def decay_of(name: str) -> str:
    """Name of the decay that the time constant ``name`` enters the step as: ``decay_w`` for ``tau_w``."""
    return name.replace("tau", "decay", 1) if "tau" in name else f"decay_{name}"


class Neuron(Component):
    """The dynamics of one neuron for one step.

    An instance holds the options that shape the step (``reset``, ``input_gain``, ...); the numbers that enter it
    (``params``) are its arguments, so that they can be learned and differ between neurons.
    """

    renamed = {"advance": "substep", "emit": "finish_step"}

    class Options(Settings):
        """Options of every neuron."""

        dt: float = DT
        learn: Names = option((), "parameters to learn, one value per neuron")
        spread: float = option(
            1.0,
            "learned time constants start log-uniformly spread from their value / this to their value x this",
            low=1.0,
            neutral=True,
        )

        @model_validator(mode="after")
        def _learns_what_there_is(self) -> Self:
            params = _params(type(self))
            for name in self.learn:
                if name not in params:
                    raise RegistryError(
                        f"learn: {name!r} is no parameter of this neuron; it has {', '.join(params)}{suggest_name(name, params)}"
                    )
            times = {name: params[name] for name in self.learn if is_time_constant(params[name])}
            if self.spread > 1 and not times:
                what = (
                    ", ".join(name for name, each in params.items() if is_time_constant(each))
                    or "it has none"
                )
                raise RegistryError(
                    f"spread: {self.spread:g} is of learned time constants: name them in learn ({what})"
                )
            for name, each in times.items():
                low, high = getattr(self, name) / self.spread, getattr(self, name) * self.spread
                if low < (each.low or 0.0) or high > (math.inf if each.high is None else each.high):
                    raise RegistryError(
                        f"spread: {self.spread:g}: {name} would start between {low:g} and {high:g}; it must be {each.bounds_text}"
                    )
            return self

    options: Options
    states: ClassVar[tuple[str, ...]]
    params: Mapping[str, OptionInfo]
    """Those options that are declared with `param`."""
    graded: ClassVar[bool] = False
    """Whether outputs carry values, instead of 0 and 1."""
    substeps: int = 1
    """Parts into which a step is divided. More than one: the step is `advance`, that many times, then `emit`."""

    named_states: type[States]
    """The states, in the order of their declaration -> by name."""
    named_params: type[Params]
    """The parameters as a step takes them -> by name."""
    named_times: type[Params]
    """The parameters as `flow` takes them, time constants in ms -> by name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.params = _params(cls.Options)
        cls.named_states = make_named_type(States, getattr(cls, "states", ()))
        cls.named_params = make_named_type(
            Params, [decay_of(n) if is_time_constant(p) else n for n, p in cls.params.items()]
        )
        cls.named_times = make_named_type(Params, cls.params)

    @property
    def get_author_class(self) -> Neuron:
        """The neuron whose text and functions an author wrote: this one, or the one that this one stands in for."""
        return self

    def __init__(self, options: Options) -> None:
        self.options = options
        self.chosen: Mapping[str, Any] = options.model_dump()
        """The options as plain values: what a graph that is being compiled can read, and what identifies a program."""
        self.dt, self.learn, self.spread = options.dt, options.learn, options.spread
        self.substeps = self.chosen.get("substeps", self.substeps)

    @classmethod
    def validate(cls, path: str, options: object, parts: Mapping[str, object]) -> None:
        if not hasattr(cls, "states"):
            raise RegistryError(
                f"{path}: neuron {cls.__name__!r} declares no 'states'; see spiky_rl/neurons/base.py"
            )

    def get_step_value(self, name: str) -> float:
        """The parameter called ``name`` as the step takes it: a time constant as its decay over one step."""
        value = self.chosen[name]
        return math.exp(-self.dt / value) if is_time_constant(self.params[name]) else value

    def get_parameter_range(self, name: str) -> tuple[float | None, float | None]:
        """Range in which the learned parameter called ``name`` is kept; None: no bound."""
        return self.params[name].low, self.params[name].high

    @abstractmethod
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        """Advance by ``dt`` -> output and the new states. Every value has the shape [..., N] or broadcasts to it.

        Args:
            ops: The functions that it may use.
            current: Input of this step, in units of the network's.
            s: States before it, by name.
            p: Parameters, by name: time constants as decays, all else in its unit.
        """

    def substep(self, ops: Ops, current: Value, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        """One of several sub-steps, with `step`'s arguments ``ops``, ``current``, ``s`` and ``p``.

        ``peak`` is the highest distance to threshold so far in this step; what it then is comes back, and the new states.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no substep; a neuron with substeps must")

    def finish_step(self, ops: Ops, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        """After the sub-steps: output, and the states that the next step starts from.

        From the highest distance to threshold, ``peak``, with `step`'s ``ops``, ``s`` and ``p``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no finish_step; a neuron with substeps must"
        )


class Ode(Neuron):
    """A neuron that is an ordinary differential equation with a threshold and a reset.

    `step` is built from `integrate`, `threshold` and `reset`. `flow`, the equation itself, is what the exact engines
    solve; a neuron that is not for them may leave it out.
    """

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        """d state / dt, per ms, which `integrate` must follow, as ``s.rates(v=...)``.

        Takes what `step` takes, ``ops``, ``current``, states ``s`` and parameters ``p``, but time constants come in ms.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no flow; an exact engine needs its equation"
        )

    @abstractmethod
    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        """Distance to the threshold in the potential's unit: the neuron spikes where it is 0 or more.

        By the states ``s`` after `integrate`; ``ops`` and ``p`` are `step`'s.
        """

    @abstractmethod
    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        """The states that ``s`` become by a ``spike`` (1) or none (0); ``ops`` and ``p`` are `step`'s."""

    @abstractmethod
    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        """The states after ``dt / substeps``, before any reset; ``ops``, ``current``, ``s`` and ``p`` are `step`'s."""

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        # the spike is at or above the threshold, and the reset in the same step; with sub-steps each is followed by its own reset,
        # the step spikes if one of them reached the threshold, and the gradient goes to the one that came highest
        if self.substeps > 1:
            peak: Value = BELOW_ANY
            for _ in range(self.substeps):
                peak, s = self.substep(ops, current, peak, s, p)
            return self.finish_step(ops, peak, s, p)
        s = self.integrate(ops, current, s, p)
        spike = ops.spike(self.distance(ops, s, p))
        reset = ops.detach(spike) if self.chosen.get("detach_reset", True) else spike
        return spike, self.reset(ops, reset, s, p)

    def substep(self, ops: Ops, current: Value, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        s = self.integrate(ops, current, s, p)
        distance = self.distance(ops, s, p)
        return ops.max(distance, peak), self.reset(ops, ops.heaviside(distance), s, p)

    def finish_step(self, ops: Ops, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        return ops.spike(peak), s

    def distance(self, ops: Ops, s: States, p: Params) -> Value:
        """`threshold` of ``ops``, ``s`` and ``p`` as the surrogate sees it: measured in the option ``scale``, where there is one."""
        distance, scale = self.threshold(ops, s, p), self.chosen.get("scale", 1.0)
        return distance if scale == 1.0 else distance / scale


param = parameter
"""The old name, for one release."""
