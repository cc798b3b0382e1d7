"""Arguments of an operation in torch's graph. An argument that is never read must have its default value."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from spiky_rl.deploy._program import ExportError

WITHOUT_EFFECT = {"device", "layout", "memory_format", "non_blocking", "pin_memory"}
"""Arguments that do not change the result."""


class Arguments:
    """The arguments of a node by their names in torch's schema."""

    def __init__(self, node: Node) -> None:
        self.node = node
        target: Any = node.target
        # torch has no public access to the schema
        declared = target._schema.arguments  # pylint: disable=protected-access
        self.given: dict[str, Any] = dict(zip((each.name for each in declared), node.args, strict=False))
        self.given |= node.kwargs
        self.defaults = {each.name: each.default_value for each in declared if each.has_default_value()}
        self.unread = self.given.keys() - WITHOUT_EFFECT

    def __getitem__(self, name: str) -> Any:
        """Return the argument ``name``, or its default."""
        self.unread -= {name}
        return self.given[name] if name in self.given else self.defaults[name]

    def read(self, *names: str) -> tuple[Any, ...]:
        """Return the arguments ``names``."""
        return tuple(self[name] for name in names)

    def require_all_read(self) -> None:
        """Raise ExportError if an argument that was not read differs from its default."""
        for name in sorted(self.unread):
            if name not in self.defaults or self.given[name] != self.defaults[name]:
                self.refuse(name)

    def refuse(self, name: str) -> None:
        """Raise ExportError for the argument ``name``."""
        raise ExportError(
            f"{get_place(self.node)}: torch's operation {get_operation_name(self.node)!r} with {name} {self.given[name]} has no C form"
        )


def get_operation_name(node: Node) -> str:
    """Return the name of the node's operation, without its overload."""
    target: Any = node.target
    return getattr(target, "_opname", getattr(target, "__name__", str(target)))


def get_place(node: Node) -> str:
    """Return the dotted path of the node's module, for messages."""
    return get_module_path(node) or "the policy"


def get_module_path(node: Node) -> str:
    """Return the dotted path of the node's module; empty for the policy itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path]
    return strip_wrapper(names[-1]) if names else ""


def strip_wrapper(path: str) -> str:
    """Remove the modules that an export wraps around the policy from a dotted ``path``."""
    while path.startswith("core."):
        path = path.removeprefix("core.")
    return "" if path == "core" else path


def is_boolean(node: Node) -> bool:
    """Return whether the result of ``node`` is boolean."""
    value = node.meta["val"]
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool
