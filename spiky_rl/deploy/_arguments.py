"""The arguments of an operation in torch's graph. One that nobody reads and that is not what it is by default is an error."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from spiky_rl.deploy._program import ExportError

WITHOUT_EFFECT = {"device", "layout", "memory_format", "non_blocking", "pin_memory"}
"""Arguments that change no number."""


class Arguments:
    """The arguments of a node by the names that torch's schema gives them."""

    def __init__(self, node: Node) -> None:
        """Take the arguments of ``node``, an operation of torch's."""
        self.node = node
        target: Any = node.target
        declared = (
            target._schema.arguments
        )  # pylint: disable=protected-access  # torch has no other way to ask
        self.given: dict[str, Any] = dict(zip((each.name for each in declared), node.args, strict=False))
        self.given |= node.kwargs
        self.defaults = {each.name: each.default_value for each in declared if each.has_default_value()}
        self.unread = self.given.keys() - WITHOUT_EFFECT

    def __getitem__(self, name: str) -> Any:
        """Return the argument ``name``; its default if it is not given."""
        self.unread -= {name}
        return self.given[name] if name in self.given else self.defaults[name]

    def read(self, *names: str) -> tuple[Any, ...]:
        """Return the arguments of these ``names``."""
        return tuple(self[name] for name in names)

    def require_all_read(self) -> None:
        """Raise ExportError for an argument that was not read and is not what it is by default."""
        for name in sorted(self.unread):
            if name not in self.defaults or self.given[name] != self.defaults[name]:
                self.refuse(name)

    def refuse(self, name: str) -> None:
        """Raise ExportError for the value of the argument ``name``."""
        raise ExportError(
            f"{place_of(self.node)}: torch's operation {name_of(self.node)!r} with {name} {self.given[name]} has no C form"
        )


def name_of(node: Node) -> str:
    """Return the name of the operation of ``node``, without that of its overload."""
    target: Any = node.target
    return getattr(target, "_opname", getattr(target, "__name__", str(target)))


def place_of(node: Node) -> str:
    """Return the dotted path of the module in which ``node`` computes, for messages."""
    return path_of(node) or "the policy"


def path_of(node: Node) -> str:
    """Return the dotted path of the module in which ``node`` computes; empty: the policy itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path]
    return without_wrapper(names[-1]) if names else ""


def without_wrapper(path: str) -> str:
    """Return a dotted ``path`` as it is in the policy, without the modules that an export puts around it."""
    while path.startswith("core."):
        path = path.removeprefix("core.")
    return "" if path == "core" else path


def is_boolean(node: Node) -> bool:
    """Return whether ``node`` computes true or false."""
    value = node.meta["val"]
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool
