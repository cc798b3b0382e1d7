"""Base classes of neurons: declared states and parameters, and one pure step.

A step uses arithmetic, comparisons and the functions of its argument ``ops`` (see `spiky_rl.kernels.ops`), nothing else. From the
step, the project derives the torch reference, the kernels for GPU and CPU, their gradients, the documentation and the tests.

Order of a step: integrate the states over ``dt`` with the step's input, spike where the potential is at or above the
threshold, reset in the same step. The resting value of every state is zero, because learners reset states with zeros.

States come as ``s`` and parameters as ``p``, by name: ``s.v``, ``p.threshold``. A parameter with ``transform="decay"`` is a
time constant. It enters the step as the decay exp(-dt / value), named ``p.decay`` for ``tau`` and ``p.decay_w`` for ``tau_w``;
only `Ode.flow` gets it in ms, as ``p.tau``. New states are made with ``s.replace(v=...)``. ``s.v`` and ``p.decay`` are of the
type `Value`, which a neuron's file imports from here.
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
"""Initial value of a maximum over sub-steps."""
EXCLUSIVE_MARGIN, MIN_EXCLUSIVE = 1e-6, 1e-3
"""Distance that a learned parameter keeps from an exclusive lower bound, relative to the bound, or to `MIN_EXCLUSIVE` if that is larger."""
MAX_PARAMETER = 1e6
"""Default bound of a parameter's absolute value. A time constant of this many ms still has a decay below 1 in float32."""


def parameter(
    default: float,
    description: str,
    *,
    unit: str = "",
    transform: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare an option that is a parameter: a number that enters the neuron's step and may be learned.

    Args:
        unit: Unit, required; ``1`` for a dimensionless number.
        transform: ``decay`` for a time constant, which enters the step as exp(-dt / value).
        low: Inclusive lower bound; -`MAX_PARAMETER` if both it and ``above`` are None.
        high: Inclusive upper bound; `MAX_PARAMETER` if it is None.
        above: Exclusive lower bound.
    """
    if low is None and above is None:
        low = -MAX_PARAMETER
    if high is None:
        high = MAX_PARAMETER
    return option(
        default, description, low=low, high=high, above=above, unit=unit, param=True, transform=transform
    )


def inner_step(default: float) -> Any:
    """Declare the option ``dt``, in ms."""
    return option(default, "inner time step", low=1e-6, high=1000.0, unit="ms")


DT = inner_step(1.0)
DETACH_RESET = option(True, "whether gradients stop at the reset")


def surrogate_scale(default: float, unit: str = "1") -> Any:
    """Declare the option ``scale`` of a neuron with a potential in mV: a surrogate gets the distance divided by it."""
    return option(
        default, "distance to the threshold that counts as 1 for the surrogate", low=1e-3, unit=unit
    )


def is_time_constant(declared_param: OptionInfo) -> bool:
    """Return whether a parameter is a time constant, which enters the step as its decay."""
    return declared_param.extra.get("transform") == "decay"


def _list_parameters(options: type[Settings]) -> dict[str, OptionInfo]:
    return {name: each for name, each in get_options(options).items() if each.extra.get("param")}


class NamedValues(tuple[Value, ...]):
    """Tuple of values with names, base of `Params` and `States`."""

    __slots__ = ()
    _fields: tuple[str, ...]

    if TYPE_CHECKING:

        def __new__(cls, *_: Value, **__: Value) -> Self: ...

        def _asdict(self) -> dict[str, Value]: ...

    def __getattr__(self, name: str) -> Value:
        """Raise AttributeError with the known names; Python calls this method for unknown names only.

        The return type is for type checkers, which do not see the fields and take every name for an unknown one.
        """
        decay = get_decay_name(name)
        hint = f"; a time constant enters a step as its decay: p.{decay}" if decay in self._fields else ""
        raise AttributeError(f"{self._format_unknown(name)}{hint}")

    def _format_unknown(self, name: str) -> str:
        return f"no {name!r}; known: {', '.join(self._fields)}{suggest_name(name, self._fields)}"


class Params(NamedValues):
    """Parameters of a neuron by name."""

    __slots__ = ()


class States(NamedValues):
    """States of a neuron by name."""

    __slots__ = ()

    def replace(self, **changed: Value) -> Self:
        """Return the states with the ``changed`` values."""
        if len(changed) < len(self):
            changed = {**dict(zip(self._fields, self, strict=True)), **changed}
        try:
            return self.__class__(**changed)
        except TypeError:
            unknown = next(name for name in changed if name not in self._fields)
            raise AttributeError(self._format_unknown(unknown)) from None

    def rates(self, **changes: Value) -> Self:
        """Return d state / dt per ms, for `Ode.flow`: the given ``changes``, 0 for all other states."""
        return self.__class__(*[0.0] * len(self)).replace(**changes)


def make_named_type[Kind: NamedValues](kind: type[Kind], names: Iterable[str]) -> type[Kind]:
    """Make a named tuple with the fields ``names`` that is a subclass of ``kind``."""
    fields = namedtuple(kind.__name__, tuple(names))  # type: ignore[misc]
    return type(kind.__name__, (kind, fields), {"__slots__": ()})  # type: ignore[return-value]


def get_decay_name(name: str) -> str:
    """Return the name of a time constant's decay: ``decay_w`` for ``tau_w``."""
    return name.replace("tau", "decay", 1) if "tau" in name else f"decay_{name}"


class Neuron(Component):
    """Dynamics of a neuron over one step.

    An instance holds the options that change the form of the step (``reset``, ``input_gain``, ...). Its parameters are
    arguments of the step, so that they can be learned and differ between neurons.
    """

    class Options(Settings):
        """Options of every neuron."""

        dt: float = DT
        learn: Names = option((), "parameters to learn, one value per neuron")
        spread: float = option(
            1.0,
            "factor of the initial spread of learned time constants: log-uniform from value / spread to value x spread",
            low=1.0,
            neutral=True,
        )

        @model_validator(mode="after")
        def _check_learned_parameters(self) -> Self:
            params = _list_parameters(type(self))
            for name in self.learn:
                if name not in params:
                    raise RegistryError(
                        f"learn: {name!r} is not a parameter of this neuron; known: {', '.join(params)}{suggest_name(name, params)}"
                    )
            time_constants = {name: params[name] for name in self.learn if is_time_constant(params[name])}
            if self.spread > 1 and not time_constants:
                names = ", ".join(name for name, each in params.items() if is_time_constant(each))
                remedy = f"add to learn: {names}" if names else "this neuron has none"
                raise RegistryError(f"spread: {self.spread:g} needs a learned time constant; {remedy}")
            for name, each in time_constants.items():
                center = getattr(self, name)
                low, high = center / self.spread, center * self.spread
                lowest = max(each.low or 0.0, each.above or 0.0)
                highest = math.inf if each.high is None else each.high
                if low < lowest or high > highest:
                    raise RegistryError(
                        f"spread: {self.spread:g}: {name} would start between {low:g} and {high:g}; it must be {each.bounds_text}"
                    )
            return self

    options: Options
    states: ClassVar[tuple[str, ...]]
    params: Mapping[str, OptionInfo]
    """Options declared with `parameter`."""
    graded: ClassVar[bool] = False
    """Whether outputs are real numbers instead of 0 and 1."""
    splits_spikes: ClassVar[bool] = False
    """Whether a spike has a charge of 1 that is spread over two inner steps, so that it is two outputs that are not 0."""
    constant_inputs: ClassVar[tuple[str, ...]] = ()
    """Parameters that act as a constant input; the check that a neuron is silent at rest takes 0 for them."""
    substeps: int = 1
    """Number of sub-steps in a step. If it is more than 1, a step is `substep` that many times, then `finish_step`."""

    named_states: type[States]
    """Type of the states, in the order of ``states``."""
    named_params: type[Params]
    """Type of the parameters in a step, with time constants as decays."""
    named_times: type[Params]
    """Type of the parameters in `Ode.flow`, with time constants in ms."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.params = _list_parameters(cls.Options)
        cls.named_states = make_named_type(States, getattr(cls, "states", ()))
        cls.named_params = make_named_type(
            Params, [get_decay_name(n) if is_time_constant(p) else n for n, p in cls.params.items()]
        )
        cls.named_times = make_named_type(Params, cls.params)

    @property
    def source_neuron(self) -> Neuron:
        """The neuron as its author wrote it: this one, or the inner one of a wrapper."""
        return self

    def __init__(self, options: Options) -> None:
        self.options = options
        self.chosen: Mapping[str, Any] = options.model_dump()
        """Value of each option, in a plain dictionary that torch.compile can read; part of the key of a compiled kernel."""
        self.dt, self.learn, self.spread = options.dt, options.learn, options.spread
        self.substeps = self.chosen.get("substeps", self.substeps)

    @classmethod
    def validate(cls, path: str, options: object, parts: Mapping[str, object]) -> None:
        if not getattr(cls, "states", ()):
            raise RegistryError(
                f"{path}: neuron {cls.__name__!r} declares no 'states', of which it needs one or more; see spiky_rl/neurons/base.py"
            )

    def get_step_value(self, name: str) -> float:
        """Return a parameter as it enters the step: a time constant as its decay over ``dt``."""
        value = self.chosen[name]
        return math.exp(-self.dt / value) if is_time_constant(self.params[name]) else value

    def get_parameter_range(self, name: str) -> tuple[float, float]:
        """Return (low, high) of a learned parameter."""
        declared = self.params[name]
        low, above, high = declared.low, declared.above, declared.high
        if above is not None:
            lowest = above + EXCLUSIVE_MARGIN * max(abs(above), MIN_EXCLUSIVE)
            low = lowest if low is None else max(low, lowest)
        assert low is not None and high is not None  # `parameter` gives every parameter both bounds
        return low, high

    @abstractmethod
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        """Advance by ``dt``; return the output and the new states. Every value has the shape [..., N] or broadcasts to it.

        Args:
            ops: Functions that the step may use.
            current: Input current, in units of the network.
            s: States before the step.
            p: Parameters: time constants as decays, all others in their unit.
        """

    def substep(self, ops: Ops, current: Value, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        """Advance by one sub-step; return the new ``peak``, the step's largest distance to the threshold, and the new states."""
        raise NotImplementedError(f"{type(self).__name__} defines no substep; a neuron with substeps must")

    def finish_step(self, ops: Ops, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        """Return the output and the states after the last sub-step, from the step's largest distance ``peak``."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no finish_step; a neuron with substeps must"
        )

    def run_substeps(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        """Return `step` as all sub-steps, each with its own reset, and `finish_step`."""
        peak: Value = BELOW_ANY
        for _ in range(self.substeps):
            peak, s = self.substep(ops, current, peak, s, p)
        return self.finish_step(ops, peak, s, p)


class Ode(Neuron):
    """Neuron defined by an ordinary differential equation with a threshold and a reset.

    `step` consists of `integrate`, `threshold` and `reset`. `flow` is the equation itself, which the exact engines solve; it
    is optional.
    """

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        """Return d state / dt per ms as ``s.rates(v=...)``; `integrate` must solve it. Time constants in ``p`` are in ms."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no flow; an exact engine needs its equation"
        )

    @abstractmethod
    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        """Return the distance to the threshold in the potential's unit, after `integrate`; the neuron spikes at >= 0."""

    @abstractmethod
    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        """Return the states after the reset; ``spike`` is 1 or 0."""

    @abstractmethod
    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        """Return the states after one sub-step of ``dt / substeps``, before the reset."""

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        # every sub-step has its own reset; the step spikes if any sub-step reached the threshold, and the gradient goes to the
        # sub-step with the largest distance
        if self.substeps > 1:
            return self.run_substeps(ops, current, s, p)
        s = self.integrate(ops, current, s, p)
        spike = ops.spike(self.distance(ops, s, p))
        detach = self.chosen.get("detach_reset", True)
        return spike, self.reset(ops, ops.detach(spike) if detach else spike, s, p)

    def substep(self, ops: Ops, current: Value, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        s = self.integrate(ops, current, s, p)
        distance = self.distance(ops, s, p)
        return ops.max(distance, peak), self.reset(ops, ops.heaviside(distance), s, p)

    def finish_step(self, ops: Ops, peak: Value, s: States, p: Params) -> tuple[Value, States]:
        return ops.spike(peak), s

    def distance(self, ops: Ops, s: States, p: Params) -> Value:
        """Return `threshold` as the surrogate gets it: divided by the option ``scale`` if the neuron has one."""
        distance, scale = self.threshold(ops, s, p), self.chosen.get("scale", 1.0)
        return distance if scale == 1.0 else distance / scale


param = parameter
"""Old name, kept for one release."""
