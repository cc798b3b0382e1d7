"""States and parameters by name: what a neuron's functions get, so that no order matters in its file.

Each is a named tuple in the order of the declaration. Who runs a step keeps flat tuples, and makes one of these of them.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from spiky_rl.config.options import nearest


class Named(tuple[Any, ...]):
    """Values by name."""

    __slots__ = ()
    _fields: tuple[str, ...]

    if TYPE_CHECKING:

        def __new__(cls, *_: Any, **__: Any) -> Self: ...

        def _asdict(self) -> dict[str, Any]: ...

    def __getattr__(self, name: str) -> Any:
        """What is asked for in vain. A value of any kind otherwise: a tensor, a number, or a symbol."""
        decay = decay_of(name)
        hint = f"; a time constant enters a step as its decay: p.{decay}" if decay in self._fields else ""
        raise AttributeError(f"{self._unknown(name)}{hint}")

    def _unknown(self, name: str) -> str:
        return f"there is no {name!r}, but {', '.join(self._fields)}{nearest(name, self._fields)}"


class States(Named):
    """A neuron's states."""

    __slots__ = ()

    def replace(self, **changed: Any) -> Self:
        """These states, some of them changed."""
        if len(changed) < len(self):
            changed = {**dict(zip(self._fields, self)), **changed}
        try:
            return self.__class__(**changed)
        except TypeError:
            unknown = next(name for name in changed if name not in self._fields)
            raise AttributeError(self._unknown(unknown)) from None

    def rates(self, **changes: Any) -> Self:
        """The rate of every state, for `flow`; those that are not named do not change."""
        return self.__class__(*[0.0] * len(self)).replace(**changes)


def naming[Kind: Named](kind: type[Kind], names: Iterable[str]) -> type[Kind]:
    """States or parameters of these names, in this order."""
    fields = namedtuple(kind.__name__, tuple(names))  # type: ignore[misc]
    return type(kind.__name__, (kind, fields), {"__slots__": ()})  # type: ignore[return-value]


def decay_of(name: str) -> str:
    """What a time constant is called where it enters as its decay: ``decay_w`` for ``tau_w``."""
    return name.replace("tau", "decay", 1) if "tau" in name else f"decay_{name}"
