"""Reader of a module: the graph of `torch.export` to an `ExportProgram`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from spiky_rl.deploy._arguments import (
    Arguments,
    is_boolean,
    get_operation_name,
    get_module_path,
    get_place,
    strip_wrapper,
)  # fmt: skip
from spiky_rl.deploy._program import (
    ExportError,
    ExportProgram,
    Index,
    Value,
    ValueView,
    drop_unit_axes,
    fuse_loops,
    get_storage,
    make_index,
    name_loop_variables,
    parenthesize,
    select_needed,
)  # fmt: skip

UNARY = {
    *("neg", "abs", "exp", "expm1", "log1p", "tanh", "sigmoid", "tan", "sqrt", "reciprocal", "relu", "gelu", "isnan"),
    *("round", "trunc", "floor", "ceil", "logical_not", "bitwise_not", "_to_copy"),
}  # fmt: skip
BINARY = {
    *("add", "sub", "mul", "div", "maximum", "minimum", "ge", "gt", "le", "lt", "eq", "ne", "bitwise_and", "bitwise_or"),
}  # fmt: skip
POINTWISE = {
    **dict.fromkeys(UNARY, ("self",)),
    **dict.fromkeys(BINARY, ("self", "other")),
    "pow": ("self", "exponent"),
    "where": ("condition", "self", "other"),
    "clamp": ("self", "min", "max"),
    "hardtanh": ("self", "min_val", "max_val"),
    "elu": ("self", "alpha", "scale", "input_scale"),
    "leaky_relu": ("self", "negative_slope"),
}
"""Elementwise operations of torch with a C form, and the names of their operands."""
ON_TRUTH = {"logical_not", "bitwise_and", "bitwise_or", "bitwise_not"}
"""Operations whose C form is for booleans only."""
REDUCTIONS = {"sum", "mean", "amax", "amin", "prod"}
POOLS = {"max_pool2d_with_indices", "avg_pool2d"}
IDENTITY_OPS = {"alias", "clone", "detach", "lift_fresh_copy", "contiguous", "expand", "repeat"}
LAYOUT = IDENTITY_OPS | {"unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "_to_copy"}  # fmt: skip
"""Operations that keep the numbers of a constant."""


def read_program(
    module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], example: tuple[Tensor, ...]
) -> ExportProgram:
    """Read a module that maps tensors to tensors.

    Args:
        module: One control step.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        example: Inputs, [1, ...] each.

    Raises ExportError, with the name of the operation, if an operation has no C form.
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
            reader.add_constant(node, tensors[held[node.name]].detach(), strip_wrapper(held[node.name]))
        else:
            name = next(names)
            given[name] = reader.add(node, Value(name, "input", tuple(node.meta["val"].shape)))
    for node in exported.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
    (result,) = exported.graph.find_nodes(op="output")
    given_back: Any = result.args[0]
    # rsl_rl's GRU returns None in the place of an LSTM's cell state
    views = [reader.get_view(x) for x in given_back if x is not None]
    for view in views:
        view.value.stored = True
    return ExportProgram(
        given, tuple(fuse_loops(select_needed(reader.values, views))), dict(zip(outputs, views, strict=True))
    )


class _Reader:
    """Reader of a graph: nodes to values and views."""

    def __init__(self) -> None:
        self.views: dict[Node, ValueView] = {}
        self.values: list[Value] = []
        self.numbers: dict[Node, Any] = {}
        """Results of nodes that depend on constants only."""

    def get_view(self, x: object) -> Any:
        """Return the view of the node ``x``; numbers are returned as they are."""
        return self.views[x] if isinstance(x, Node) else x

    def add(self, node: Node, value: Value) -> Value:
        """Set the view of ``node`` to the whole of ``value``, and return ``value``."""
        self.views[node] = ValueView(value, value.shape, lambda index: index)
        return value

    def add_constant(self, node: Node, data: Tensor, path: str, operation: str = "") -> None:
        """Set the view of ``node`` to a constant.

        Args:
            path: Their origin: the path of a module, and a name in it.
            operation: The last operation on them; empty if there was none.
        """
        self.numbers[node] = data
        self.add(
            node,
            Value(
                path,
                "constant",
                tuple(data.shape),
                operation.strip("_"),
                data=data,
                boolean=data.dtype == torch.bool,
            ),
        )

    def read(self, node: Node) -> None:
        """Read an operation."""
        name = get_operation_name(node)
        if name in ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"):
            return
        if all(x in self.numbers for x in node.all_input_nodes):
            self._evaluate(node, name)
            return
        if name in ("split_with_sizes", "split", "max_pool2d_with_indices"):
            return  # its results are read one by one, as getitem
        if name == "getitem" and get_operation_name(parent := _get_parent(node)) in POOLS:
            if node.args[1] != 0:
                raise ExportError(f"{get_place(node)}: the indices of max pooling have no C form")
            self._compute(node, parent, get_operation_name(parent))
            return
        if not isinstance(node.meta["val"], Tensor):
            raise ExportError(f"{get_place(node)}: torch's operation {name!r} has no C form")
        if name == "full_like":
            data = torch.full(node.meta["val"].shape, node.args[1], dtype=node.meta["val"].dtype)  # type: ignore[arg-type]
            self.add_constant(node, data, _join_path(get_module_path(node), "full"))
        elif not self._read_view(node, name):
            self._compute(node, node, name)

    def _evaluate(self, node: Node, name: str) -> None:
        """Evaluate a node that depends on constants only, with torch, so that the numbers equal the live policy's."""
        operation: Any = node.target
        arguments: Any = map_arg((node.args, node.kwargs), lambda x: self.numbers[x])
        with torch.no_grad():
            result = operation(*arguments[0], **arguments[1])
        if not isinstance(result, Tensor):
            self.numbers[node] = result
            return
        sources = [self.views[x].value for x in node.all_input_nodes if x in self.views]
        if not sources:
            self.add_constant(node, result, _join_path(get_module_path(node), name.strip("_")))
        else:
            last = sources[0].operation if name in LAYOUT else name
            self.add_constant(node, result, sources[0].name, last)

    def _compute(self, node: Node, operation: Node, name: str) -> None:
        """Set the view of ``node`` to a new value, the result of ``operation``, which is called ``name``."""
        value = Value(
            _make_local_name(node.name),
            "pointwise",
            tuple(node.meta["val"].shape),
            name,
            place=get_place(node),
        )
        value.boolean = is_boolean(node)
        arguments = Arguments(operation)
        self._fill(node, name, value, arguments)
        arguments.require_all_read()
        for view in value.operands:
            if isinstance(view, ValueView) and value.kind != "pointwise":
                view.value.stored = True
        self.values.append(value)
        self.add(node, value)

    def _fill(self, node: Node, name: str, value: Value, arguments: Arguments) -> None:
        """Set kind, operands and settings of ``value``, the result of the operation ``name`` with ``arguments``."""
        if name in POINTWISE:
            self._fill_pointwise(node, name, value, arguments)
        elif name in ("mm", "addmm"):
            matrix, weight = (
                arguments.read("mat1", "mat2") if name == "addmm" else arguments.read("self", "mat2")
            )
            if weight not in self.numbers:
                raise ExportError(f"{value.place}: a product without constant weights has no C form")
            bias = arguments["self"] if name == "addmm" else None
            value.kind, value.operands = "product", (self.get_view(matrix),)
            value.settings = {"weight": self._get_constant(weight), "bias": self._get_constant(bias)}
        elif name == "convolution":
            x, weight, bias = arguments.read("input", "weight", "bias")
            stride, padding, dilation = arguments.read("stride", "padding", "dilation")
            transposed, groups = arguments.read("transposed", "groups")
            arguments.read("output_padding")  # used by transposed convolutions only
            if transposed or groups != 1 or set(dilation) != {1}:
                raise ExportError(
                    f"{value.place}: transposed, dilated and grouped convolutions have no C form"
                )
            value.kind, value.operands = "convolution", (self.get_view(x),)
            value.settings = {"weight": self._get_constant(weight), "bias": self._get_constant(bias)}
            value.settings |= {"stride": stride, "padding": padding}
        elif name in POOLS:
            x, kernel, stride, padding = arguments.read("self", "kernel_size", "stride", "padding")
            if len(value.shape) != 4:
                raise ExportError(
                    f"{value.place}: pooling of {len(value.shape)} axes has no C form; allowed: 4"
                )
            if name == "avg_pool2d" and set(padding) != {0}:
                arguments.refuse("padding")
            value.kind, value.operands = "pool", (self.get_view(x),)
            value.settings = {
                "kernel": _make_pair(kernel),
                "stride": _make_pair(stride or kernel),
                "padding": _make_pair(padding),
            }
        elif name in REDUCTIONS:
            axes = arguments["dim"] if "dim" in arguments.given else ()
            keep = arguments["keepdim"] if "keepdim" in arguments.given else False
            x = self.get_view(arguments["self"])
            count = len(x.shape)
            axes = [axes] if isinstance(axes, int) else axes
            value.kind, value.operands = "reduction", (x,)
            value.settings = {"axes": sorted(a % count for a in axes) or list(range(count)), "keep": keep}
        elif name == "cat":
            parts, axis = arguments.read("tensors", "dim")
            value.kind, value.operands = "join", tuple(self.get_view(x) for x in parts)
            value.settings = {"axis": axis % len(value.shape)}
            value.binary = all(part.value.binary for part in value.operands if isinstance(part, ValueView))
        else:
            raise ExportError(f"{value.place}: torch's operation {name!r} has no C form yet")

    def _fill_pointwise(self, node: Node, name: str, value: Value, arguments: Arguments) -> None:
        """As `_fill`, for an elementwise operation."""
        value.operands = tuple(self.get_view(x) for x in arguments.read(*POINTWISE[name]))
        first = value.operands[0]
        kind = node.meta["val"].dtype
        if name == "gelu":
            value.settings = {"approximate": arguments["approximate"]}
        elif name == "_to_copy" and kind in (torch.float32, torch.bool):
            arguments.read("dtype")
        elif name == "_to_copy":
            arguments.refuse("dtype")
        both = [x for x in value.operands if isinstance(x, ValueView)]
        truth = [x.value.boolean for x in both]
        if (name in ON_TRUTH and not all(truth)) or (
            name not in ON_TRUTH and value.boolean and name in ("add", "mul")
        ):
            raise ExportError(f"{value.place}: torch's operation {name!r} on {kind} has no C form")
        if kind == torch.float64:
            raise ExportError(f"{value.place}: torch's operation {name!r} in double precision has no C form")
        value.binary = (name == "_to_copy" and isinstance(first, ValueView) and first.value.boolean) or (
            name == "mul"
            and _is_unit_scalar(value.operands[1])
            and isinstance(first, ValueView)
            and first.value.binary
        )

    def _get_constant(self, node: Node | None) -> Value | None:
        """Return the constant of ``node``; None for None."""
        return None if node is None else self.views[node].value

    def _read_view(self, node: Node, name: str) -> bool:
        """Read an operation that is a view of its operand; return whether it was one."""
        args: Any = node.args
        shape = tuple(node.meta["val"].shape)
        if name == "getitem":
            split, which = args[0], args[1]
            base, sizes = self.get_view(split.args[0]), split.args[1]
            axis = (split.args[2] if len(split.args) > 2 else 0) % len(base.shape)
            start = sum(sizes[:which])
            self._add_view(node, base, shape, _shift_axis(axis, start, 1))
            return True
        base = self.get_view(args[0])
        if name in IDENTITY_OPS:
            before, extra = base.shape, len(shape) - len(base.shape)
            if any(a != b and a != 1 for a, b in zip(before, shape[extra:], strict=True)):
                raise ExportError(
                    f"{get_place(node)}: repeating an axis of more than one element has no C form"
                )
            self._add_view(
                node,
                base,
                shape,
                lambda i: tuple("0" if size == 1 else t for size, t in zip(before, i[extra:], strict=True)),
            )
        elif name in ("unsqueeze", "squeeze", "view", "_unsafe_view", "reshape"):
            if drop_unit_axes(base.shape) == drop_unit_axes(shape):
                self._add_view(node, base, shape, _restore_axes(shape, base.shape))
            else:
                self._reshape(node, base, shape)
        elif name in ("permute", "transpose", "t"):
            order = list(args[1]) if name == "permute" else list(range(len(shape)))
            if name != "permute":
                one, two = (0, 1) if name == "t" else args[1:3]
                order[one], order[two] = order[two], order[one]
            self._add_view(
                node, base, shape, lambda i: tuple(i[order.index(axis)] for axis in range(len(order)))
            )
        elif name in ("select", "slice"):
            axis = args[1] % len(base.shape)
            start = args[2] or 0 if len(args) > 2 else 0
            start = min(start + base.shape[axis] if start < 0 else start, base.shape[axis])
            if name == "slice":
                self._add_view(node, base, shape, _shift_axis(axis, start, args[4] if len(args) > 4 else 1))
            else:
                self._add_view(node, base, shape, lambda i: (*i[:axis], str(start), *i[axis:]))
        else:
            return False
        return True

    def _add_view(
        self, node: Node, base: ValueView, shape: tuple[int, ...], at: Callable[[Index], Index]
    ) -> None:
        self.views[node] = ValueView(base.value, shape, lambda index: base.indices(at(index)))

    def _reshape(self, node: Node, base: ValueView, shape: tuple[int, ...]) -> None:
        """Set the view of ``node`` to the memory of ``base`` in another shape; a base that is itself a view is copied first."""
        whole = make_index(base.shape, name_loop_variables(base.shape))
        if base.shape != base.value.shape or base.indices(whole) != whole:
            copy = Value(
                f"{node.name}_copy",
                "pointwise",
                base.shape,
                "_to_copy",
                (base,),
                binary=base.value.binary,
                place=get_place(node),
            )
            self.values.append(copy)
            base = ValueView(copy, copy.shape, lambda index: index)
        held = base.value
        get_storage(held).stored = True
        other = Value(
            held.name,
            held.kind,
            shape,
            data=None if held.data is None else held.data.reshape(shape),
            boolean=held.boolean,
            binary=held.binary,
        )
        other.settings = {"memory": held.settings.get("memory", held)}
        self.views[node] = ValueView(other, shape, lambda index: index)


def _shift_axis(axis: int, start: int, step: int) -> Callable[[Index], Index]:
    def at(index: Index) -> Index:
        term = index[axis]
        if term.isdigit():
            moved = str(start + step * int(term))
        else:
            moved = (term if step == 1 else f"{parenthesize(term)} * {step}") + (
                f" + {start}" if start else ""
            )
        return (*index[:axis], moved, *index[axis + 1 :])

    return at


def _restore_axes(shape: Sequence[int], before: Sequence[int]) -> Callable[[Index], Index]:
    return lambda index: make_index(before, [t for size, t in zip(shape, index, strict=True) if size != 1])


def _is_unit_scalar(x: object) -> bool:
    return isinstance(x, int | float) and x == 1


def _get_parent(node: Node) -> Node:
    """Return the operation with several results of which ``node`` takes one."""
    parent = node.args[0]
    assert isinstance(parent, Node)
    return parent


def _make_pair(size: Sequence[int]) -> tuple[int, int]:
    """Return one or two numbers as two."""
    return size[0], size[-1]


def _make_local_name(name: str) -> str:
    """Return torch's ``name`` of a node as a C name. It ends in a number, unlike keywords and functions."""
    name = name.strip("_")
    return name if name.rpartition("_")[2].isdigit() else f"{name}_0"


def _join_path(path: str, name: str) -> str:
    """Return the dotted path of ``name`` in the module ``path``, which is empty for the policy itself."""
    return f"{path}.{name}" if path else name
