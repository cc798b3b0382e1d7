"""A module as a program: the operations that `torch.export` finds in it, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from spiky_rl.deploy._program import (
    ExportError, Index, Program, Value, View, extents, grouped, indices, letters, memory, needed, wrapped,
)  # fmt: skip

POINTWISE = {
    *("add", "sub", "mul", "div", "neg", "abs", "exp", "expm1", "tanh", "sigmoid", "tan", "sqrt", "round", "reciprocal"),
    *("ge", "gt", "le", "lt", "eq", "ne", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not"),
    *("where", "clamp", "maximum", "minimum", "pow", "elu", "relu", "_to_copy"),
}  # fmt: skip
"""Operations of torch on single elements that have a C expression."""
BOOLEAN = {"ge", "gt", "le", "lt", "eq", "ne", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not"}
REDUCTIONS = {"sum", "mean", "amax", "amin", "prod"}
SAME = {"alias", "clone", "detach", "lift_fresh_copy", "contiguous", "expand", "repeat"}


def program(
    module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], example: tuple[Tensor, ...]
) -> Program:
    """The loops of a module that maps tensors to tensors.

    Args:
        module: One control step.
        inputs: Names of what goes in.
        outputs: Names of what comes out.
        example: What goes in, [1, ...] each.

    Raises ExportError that names the operation for which there is none.
    """
    with torch.no_grad():
        exported = torch.export.export(module, example).run_decompositions()
    signature = exported.graph_signature
    held = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**exported.state_dict, **exported.constants}
    reader = _Reader()
    names = iter(inputs)
    given = {}
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in held:
            reader.constant(node, tensors[held[node.name]].detach())
        else:
            name = next(names)
            given[name] = reader.add(node, Value(name, "input", tuple(node.meta["val"].shape)))
    for node in exported.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    (result,) = exported.graph.find_nodes(op="output")
    given_back: Any = result.args[0]
    # rsl_rl's GRU gives a None where its LSTM gives a cell
    views = [reader.view(x) for x in given_back if x is not None]
    for view in views:
        view.value.stored = True
    return Program(
        given, tuple(grouped(needed(reader.values, views))), dict(zip(outputs, views, strict=True))
    )


class _Reader:
    """Nodes of a graph to values and views of them."""

    def __init__(self) -> None:
        self.views: dict[Node, View] = {}
        self.values: list[Value] = []
        self.numbers: dict[Node, Any] = {}
        """What depends on nothing but constants."""

    def view(self, x: object) -> Any:
        """The view of ``x``, a node; numbers are themselves."""
        return self.views[x] if isinstance(x, Node) else x

    def add(self, node: Node, value: Value) -> Value:
        """Let a ``node`` stand for a ``value`` as it is; returns the value."""
        self.views[node] = View(value, value.shape, lambda index: index)
        return value

    def constant(self, node: Node, data: Tensor) -> None:
        """Let a ``node`` stand for ``data`` that are known."""
        self.numbers[node] = data
        self.add(node, Value(node.name, "constant", tuple(data.shape), data=data))

    def read(self, node: Node) -> None:
        """Take up one operation, a ``node``."""
        args: Any = node.args
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target)))
        if name in ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"):
            return
        if all(x in self.numbers for x in node.all_input_nodes):
            # the same arithmetic as in the live policy: torch's own
            operation: Any = node.target
            arguments: Any = map_arg((args, node.kwargs), lambda x: self.numbers[x])
            with torch.no_grad():
                result = operation(*arguments[0], **arguments[1])
            if isinstance(result, Tensor):
                self.constant(node, result)
            else:
                self.numbers[node] = result
            return
        if name in ("split_with_sizes", "split"):
            return
        if name == "full_like":
            self.constant(node, torch.full(node.meta["val"].shape, args[1]))
            return
        if isinstance(node.meta["val"], Tensor) and self._is_view(node, name):
            return
        if not isinstance(node.meta["val"], Tensor):
            raise ExportError(f"{_place(node)}: torch's operation {name!r} has no C form")
        value = Value(node.name, "pointwise", tuple(node.meta["val"].shape), name, place=_place(node))
        value.boolean = name in BOOLEAN
        self._fill(node, name, value)
        self.values.append(value)
        self.add(node, value)

    def _fill(self, node: Node, name: str, value: Value) -> None:
        args: Any = node.args
        operands: tuple[View, ...] = tuple(self.view(x) for x in args if isinstance(x, Node))
        if name in POINTWISE:
            value.operands = tuple(self.view(x) for x in args)
            value.settings = dict(node.kwargs)
            if value.settings.get("alpha", 1) != 1:
                raise ExportError(
                    f"{_place(node)}: {name} with alpha {value.settings['alpha']} has no C form"
                )
            value.binary = (name == "_to_copy" and operands[0].value.boolean) or (
                name == "mul" and _is_one(value.operands[1]) and operands[0].value.binary
            )
        elif name in ("mm", "addmm"):
            matrix, weight = operands[-2:]
            if weight.value.kind != "constant":
                raise ExportError(
                    f"{_place(node)}: a product of two arrays that both change from step to step has no C form"
                )
            numbers = self.numbers[args[-1]].contiguous()
            bias = self.numbers[args[0]] if name == "addmm" else None
            value.kind, value.operands = "product", (matrix,)
            value.settings = {"weight": numbers, "bias": bias}
        elif name == "convolution":
            numbers = self.numbers[args[1]]
            bias = None if args[2] is None else self.numbers[args[2]]
            stride, padding, dilation, transposed, _, groups = args[3:9]
            if transposed or groups != 1 or set(dilation) != {1}:
                raise ExportError(
                    f"{_place(node)}: transposed, dilated and grouped convolutions have no C form"
                )
            value.kind, value.operands = "convolution", operands[:1]
            value.settings = {"weight": numbers, "bias": bias, "stride": stride, "padding": padding}
        elif name in REDUCTIONS:
            axes, keep = args[1] if len(args) > 1 else (), len(args) > 2 and args[2]
            count = len(operands[0].shape)
            axes = [axes] if isinstance(axes, int) else axes
            value.kind, value.operands = "reduction", operands[:1]
            value.settings = {"axes": sorted(a % count for a in axes) or list(range(count)), "keep": keep}
        elif name == "cat":
            parts = tuple(self.view(x) for x in args[0])
            axis = (args[1] if len(args) > 1 else 0) % len(value.shape)
            value.kind, value.operands, value.settings = "join", parts, {"axis": axis}
            value.binary = all(part.value.binary for part in parts)
        else:
            raise ExportError(f"{_place(node)}: torch's operation {name!r} has no C form yet")
        for view in operands if value.kind != "join" else value.operands:
            if isinstance(view, View) and value.kind != "pointwise":
                view.value.stored = True

    def _is_view(self, node: Node, name: str) -> bool:
        """Take up an operation that only looks at its operand in another way."""
        args: Any = node.args
        shape = tuple(node.meta["val"].shape)
        if name == "getitem":
            split, which = args[0], args[1]
            base, sizes = self.view(split.args[0]), split.args[1]
            axis = (split.args[2] if len(split.args) > 2 else 0) % len(base.shape)
            start = sum(sizes[:which])
            self._look(node, base, shape, _shifted(axis, start, 1))
            return True
        base = self.view(args[0])
        if name in SAME:
            before, extra = base.shape, len(shape) - len(base.shape)
            if any(a != b and a != 1 for a, b in zip(before, shape[extra:], strict=True)):
                raise ExportError(f"{_place(node)}: a repetition of more than one element has no C form")
            self._look(
                node,
                base,
                shape,
                lambda i: tuple("0" if size == 1 else t for size, t in zip(before, i[extra:], strict=True)),
            )
        elif name in ("unsqueeze", "squeeze", "view", "_unsafe_view", "reshape"):
            if extents(base.shape) == extents(shape):
                self._look(node, base, shape, _resqueezed(shape, base.shape))
            else:
                self._reshaped(node, base, shape)
        elif name in ("permute", "transpose", "t"):
            order = list(args[1]) if name == "permute" else list(range(len(shape)))
            if name != "permute":
                one, two = (0, 1) if name == "t" else args[1:3]
                order[one], order[two] = order[two], order[one]
            self._look(node, base, shape, lambda i: tuple(i[order.index(axis)] for axis in range(len(order))))
        elif name in ("select", "slice"):
            axis = args[1] % len(base.shape)
            start = args[2] or 0 if len(args) > 2 else 0
            start = min(start + base.shape[axis] if start < 0 else start, base.shape[axis])
            if name == "slice":
                self._look(node, base, shape, _shifted(axis, start, args[4] if len(args) > 4 else 1))
            else:
                self._look(node, base, shape, lambda i: (*i[:axis], str(start), *i[axis:]))
        else:
            return False
        return True

    def _look(self, node: Node, base: View, shape: tuple[int, ...], at: Callable[[Index], Index]) -> None:
        self.views[node] = View(base.value, shape, lambda index: base.at(at(index)))

    def _reshaped(self, node: Node, base: View, shape: tuple[int, ...]) -> None:
        """A view that runs over its operand's memory: the operand is written there first."""
        whole = indices(base.shape, letters(base.shape))
        if base.shape != base.value.shape or base.at(whole) != whole:
            copy = Value(
                f"{node.name}_copy",
                "pointwise",
                base.shape,
                "_to_copy",
                (base,),
                binary=base.value.binary,
                place=_place(node),
            )
            self.values.append(copy)
            base = View(copy, copy.shape, lambda index: index)
        held = base.value
        memory(held).stored = True
        other = Value(
            held.name,
            held.kind,
            shape,
            data=None if held.data is None else held.data.reshape(shape),
            binary=held.binary,
        )
        other.settings = {"memory": held.settings.get("memory", held)}
        self.views[node] = View(other, shape, lambda index: index)


def _shifted(axis: int, start: int, step: int) -> Callable[[Index], Index]:
    def at(index: Index) -> Index:
        term = index[axis]
        if term.isdigit():
            moved = str(start + step * int(term))
        else:
            moved = (term if step == 1 else f"{wrapped(term)} * {step}") + (f" + {start}" if start else "")
        return (*index[:axis], moved, *index[axis + 1 :])

    return at


def _resqueezed(shape: Sequence[int], before: Sequence[int]) -> Callable[[Index], Index]:
    return lambda index: indices(before, [t for size, t in zip(shape, index, strict=True) if size != 1])


def _is_one(x: object) -> bool:
    return isinstance(x, int | float) and x == 1


def _place(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    names = [path for path, _ in stack.values() if path]
    return names[-1].removeprefix("core.") if names else "the policy"
