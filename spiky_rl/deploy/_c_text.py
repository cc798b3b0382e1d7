"""Writer of ``policy.c`` and ``policy.h`` from a program."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from spiky_rl.config import files
from spiky_rl.deploy._c_constants import Constants
from spiky_rl.deploy._c_expressions import format_expression
from spiky_rl.deploy._c_functions import (
    ARITHMETIC,
    ARITHMETIC_TEXT,
    BOUNDS_TEXT,
    FUNCTIONS,
    HEADER,
    MULTIPLY_ADD,
    DEPENDENCIES,
    SOURCE,
    C_NAMES,
    MATH_FUNCTIONS,
)  # fmt: skip
from spiky_rl.deploy._c_memory import allocate_fields, format_offset
from spiky_rl.deploy._program import (
    ExportLoop,
    ExportProgram,
    Index,
    Value,
    ValueView,
    count_elements,
    drop_unit_axes,
    make_operand_index,
    format_flat_index,
    get_storage,
    make_index,
)  # fmt: skip
from spiky_rl.kernels.convolution import LARGEST_POOL, adds_by_columns
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.inference_policy import BOUND
from spiky_rl.metrics.sparse_storage import WeightStorage


def write_policy(program: ExportProgram, folder: Path, usage: str, width: int) -> Path:
    """Write ``policy.c`` and ``policy.h`` into ``folder``, which is created if missing, and return the path of ``policy.c``.

    Args:
        program: A control step with the input ``observation`` and the output ``action``; a stateful one also has the input
            ``state`` and the output ``next``.
        usage: Description of inputs and outputs, for the header.
        width: Floats in a vector of the `cpu` backend on this machine. The backend does not fuse products with fewer outputs.
    """
    text = _PolicyWriter(program, width)
    return write_files(folder, text.build_source(), text.build_header(usage))


def write_files(folder: Path, source: str, header: str) -> Path:
    """Write ``policy.c`` and ``policy.h`` into ``folder`` and return the path of ``policy.c``."""
    files.write_text(folder / "policy.c", source)
    files.write_text(folder / "policy.h", header)
    return folder / "policy.c"


class _PolicyWriter:
    """Writer of one policy."""

    def __init__(self, program: ExportProgram, width: int) -> None:
        self.program, self.width = program, width
        self.constants = Constants()
        self.functions: dict[str, None] = {}
        self.multiplies = self.uses_math = False
        self.fields = allocate_fields(program)
        self.loops = [self.format_loop(loop) for loop in program.loops]
        self.results = self.format_outputs()

    @property
    def state_size(self) -> int:
        """Number of floats in the state."""
        return count_elements(self.program.inputs["state"].shape) if "state" in self.program.inputs else 0

    def build_source(self) -> str:
        """Return the text of ``policy.c``."""
        needed = [MULTIPLY_ADD] if self.multiplies or self.functions.keys() & {"exp", "tanh", "tan"} else []
        needed += [text for name, text in FUNCTIONS.items() if name in self.functions]
        return SOURCE.format(
            math="#include <math.h>\n" if self.uses_math or self.functions.keys() & MATH_FUNCTIONS else "",
            arithmetic=ARITHMETIC,
            needed="\n".join([*needed, *self.constants.text]),
            body="\n".join([*filter(None, self.loops), self.results]),
        )

    def build_header(self, usage: str) -> str:
        """Return the text of ``policy.h``."""
        inputs, outputs = self.get_sizes()
        arrays = {"carried": self.state_size, **self.fields.sizes}
        return HEADER.format(
            usage=format_comment(usage),
            bounded=format_comment(BOUNDS_TEXT.format(bound=f"{BOUND:g}")),
            arithmetic=format_comment(ARITHMETIC_TEXT),
            inputs=inputs,
            outputs=outputs,
            floats=sum(arrays.values()),
            arrays="".join(f"  float {name}[{size}];\n" for name, size in arrays.items() if size),
        )

    def get_sizes(self) -> tuple[int, int]:
        """Return the number of observations and of actions."""
        return count_elements(self.program.inputs["observation"].shape), count_elements(
            self.program.outputs["action"].shape
        )

    def format_outputs(self) -> str:
        """Return C that writes the action and the new state, to follow all reads of the old state."""
        lines = []
        for name, view in self.program.outputs.items():
            target = {"action": "action", "next": "s->carried"}[name]
            variables, open_, close = _format_loops(view.shape, "  ")
            whole = make_index(view.shape, variables)
            indent = "  " * (len(variables) + 1)
            lines.append(
                f"{open_}{indent}{target}[{format_flat_index(view.shape, whole)}] = {self.format_read(view.value, view.indices(whole))};\n{close}"
            )
        return "".join(lines).rstrip("\n")

    def format_loop(self, loop: ExportLoop) -> str:
        """Return C of ``loop``."""
        value = loop.values[0]
        kinds = {
            "product": self.format_product,
            "reduction": self.format_reduction,
            "convolution": self.format_convolution,
            "join": self.format_join,
            "pool": self.format_pool,
        }
        text = self.format_pointwise(loop) if loop.pointwise else kinds[value.kind](value)
        return f"\n  // {value.place}\n{text}" if text else ""

    def format_pointwise(self, loop: ExportLoop) -> str:
        """Return C that computes all values of a pointwise ``loop``, element by element."""
        variables, open_, close = _format_loops(loop.values[0].shape, "  ")
        indent = "  " * (len(variables) + 1)
        inside = {id(value): value for value in loop.values}
        lines = []
        for value in loop.values:
            terms = [self.format_operand(value, x, variables, inside) for x in value.operands]
            kind = "int" if value.boolean else "float"
            lines.append(
                f"{indent}const {kind} {value.name} = {format_expression(value, terms, self.use_function)};"
            )
            if value.stored:
                place = self.fields.format_element(value, make_index(value.shape, variables))
                lines.append(f"{indent}{place} = {self.format_number(value)};")
        body = "\n".join(lines)
        if not variables:
            return f"  {{\n{textwrap.indent(body, '  ')}\n  }}"
        return f"{open_}{body}\n{close}".rstrip("\n")

    def format_number(self, value: Value) -> str:
        return f"(float){value.name}" if value.boolean else value.name

    def format_operand(
        self, value: Value, x: ValueView | float | None, variables: list[str], inside: Mapping[int, Value]
    ) -> str:
        """Return the C expression of an operand of a pointwise value: a number, a name of the same loop, or an array element.

        Args:
            value: The pointwise value.
            x: The operand; None gives an empty text.
            variables: Loop variables of the value.
            inside: Values of the same loop by id.
        """
        if not isinstance(x, ValueView):
            return "" if x is None else format_literal(float(x))
        if id(x.value) in inside:
            return x.value.name
        text = self.format_read(x.value, make_operand_index(value, x, variables))
        return f"({text} != 0.0f)" if get_storage(x.value).boolean else text

    def format_read(self, value: Value, index: Index) -> str:
        """Return the C expression that reads the element of ``value`` at ``index``."""
        held, place = get_storage(value), format_flat_index(value.shape, index)
        if held.kind == "input":
            return f"{'s->carried' if held.name == 'state' else held.name}[{place}]"
        if held.kind == "constant":
            assert held.data is not None
            numbers = held.data.float().reshape(-1)
            if numbers.numel() == 1 or bool((numbers == numbers[0]).all()):
                return format_literal(numbers[0].item())
            return f"{self.constants.add(held, numbers)}[{place}]"
        return self.fields.format_element(value, index)

    def use_function(self, name: str) -> str:
        """Add ``name`` of `FUNCTIONS` to the file and return its name in C."""
        for needed in DEPENDENCIES.get(name, ()):
            self.functions[needed] = None
        self.functions[name] = None
        return C_NAMES.get(name, name)

    def format_product(self, value: Value) -> str:
        """Return C of a matrix product: weights are added row by row, for inputs other than 0. Sparse weights are lists of synapses."""
        (x,), (held, weight), bias = (
            value.operands,
            get_constant(value, "weight"),
            self.format_bias(value, "n"),
        )
        assert isinstance(x, ValueView)
        (rows, inputs), outputs = x.shape, value.shape[1]
        zeros = int((weight == 0).sum())
        lists = outputs > 1 and zeros < weight.numel() and WeightStorage(inputs, outputs, zeros).index > 0
        matrix = self.constants.add(held, weight[weight != 0] if lists else weight.reshape(-1))
        target = self.fields.format_element(value, ("0" if rows == 1 else "m", "0" if outputs == 1 else "n"))
        fused = outputs >= self.width and not x.value.binary
        self.multiplies |= fused
        entry = f"{matrix}[i]" if lists else f"{matrix}[c * {outputs} + n]"
        if x.value.binary:
            step = f"{target} += {entry};"
        elif fused:
            step = f"{target} = MULTIPLY_ADD(x, {entry}, {target});"
        else:
            step = f"{target} += x * {entry};"
        each = (
            self.format_synapses(held, weight, step)
            if lists
            else f"for (int n = 0; n < {outputs}; n++) {step}"
        )
        read = self.format_read(x.value, x.indices(("0" if rows == 1 else "m", "0" if inputs == 1 else "c")))
        lines = [
            f"for (int n = 0; n < {outputs}; n++) {target} = {bias};",
            f"for (int c = 0; c < {inputs}; c++) {{",
            f"  const float x = {read};",
            f"  if (x != 0.0f)\n      {each}",
            "}",
        ]
        body = "\n".join(lines)
        if rows > 1:
            body = f"for (int m = 0; m < {rows}; m++) {{\n{textwrap.indent(body, '  ')}\n}}"
        return textwrap.indent(body, "  ")

    def format_bias(self, value: Value, index: str) -> str:
        """Return the C expression of the bias of a product or convolution at ``index``; 0 if it has no bias."""
        if value.settings["bias"] is None:
            return "0.0f"
        held, numbers = get_constant(value, "bias")
        return f"{self.constants.add(held, numbers.reshape(-1))}[{index}]"

    def format_synapses(self, held: Value, weight: Tensor, step: str) -> str:
        """Declare the lists of synapses, and return C that runs ``step`` for each synapse i of input c to neuron n.

        Args:
            held: The constant of the weights.
            weight: Its values, [inputs, outputs].
            step: C of one synapse.
        """
        there = weight != 0
        ends = there.sum(1).cumsum(0)
        begin = self.constants.add(held, torch.cat([ends.new_zeros(1), ends]), "begin")
        neuron = self.constants.add(held, there.nonzero()[:, 1], "neuron")
        return f"for (int i = {begin}[c]; i < {begin}[c + 1]; i++) {{\n        const int n = {neuron}[i];\n        {step}\n      }}"

    def format_reduction(self, value: Value) -> str:
        """Return C of a sum, mean, product, maximum or minimum over axes."""
        (x,) = value.operands
        assert isinstance(x, ValueView)
        axes = value.settings["axes"]
        outer = [f"i{axis}" for axis in range(len(x.shape)) if axis not in axes and x.shape[axis] != 1]
        names = ["0" if size == 1 else f"i{axis}" for axis, size in enumerate(x.shape)]
        start = tuple("0" if axis in axes else name for axis, name in enumerate(names))
        whole = (
            start
            if value.settings["keep"]
            else tuple(name for axis, name in enumerate(names) if axis not in axes)
        )
        target = self.fields.format_element(value, whole)
        over = [(names[axis], x.shape[axis]) for axis in axes if x.shape[axis] != 1]
        first = {"sum": "0.0f", "mean": "0.0f", "prod": "1.0f"}.get(
            value.operation, self.format_read(x.value, x.indices(start))
        )
        read = self.format_read(x.value, x.indices(tuple(names)))
        step = {"sum": f"sum += {read};", "mean": f"sum += {read};", "prod": f"sum *= {read};"}.get(
            value.operation
        )
        if step is None:
            step = f"sum = {self.use_function('larger' if value.operation == 'amax' else 'smaller')}(sum, {read});"
        size = math.prod(length for _, length in over)
        result = f"sum / {format_literal(float(size))}" if value.operation == "mean" else "sum"
        inner = "".join(f"for (int {name} = 0; {name} < {length}; {name}++) " for name, length in over)
        lines = [f"float sum = {first};", f"{inner}{step}", f"{target} = {result};"]
        loops = "".join(
            f"for (int {name} = 0; {name} < {x.shape[int(name[1:])]}; {name}++) " for name in outer
        )
        return f"  {loops}{{\n{textwrap.indent(chr(10).join(lines), '    ')}\n  }}"

    def format_convolution(self, value: Value) -> str:
        """Return C of a convolution, output by output, summed in the order of the `cpu` backend's kernel."""
        (x,), (held, weight) = value.operands, get_constant(value, "weight")
        assert isinstance(x, ValueView)
        (sr, sc), (pr, pc) = value.settings["stride"], value.settings["padding"]
        outputs, inputs, height, width = weight.shape
        rows, columns = x.shape[2:]
        batch, _, high, wide = value.shape
        kernel, start = self.constants.add(held, weight.reshape(-1)), self.format_bias(value, "o")
        self.multiplies = True
        b = "0" if batch == 1 else "b"
        target = self.fields.format_element(
            value, (b, "o" if outputs > 1 else "0", "r" if high > 1 else "0", "q" if wide > 1 else "0")
        )
        read = self.format_read(x.value, x.indices((b, "c" if inputs > 1 else "0", "y", "z")))
        over = [("c", inputs), ("i", height), ("j", width)]
        if adds_by_columns((inputs, rows, columns, outputs, width, sc, pc, self.get_pool_side(value))):
            over.reverse()
        first, second, third = (f"for (int {name} = 0; {name} < {size}; {name}++)" for name, size in over)
        lines = [
            f"for (int o = 0; o < {outputs}; o++)",
            f"  for (int r = 0; r < {high}; r++)",
            f"    for (int q = 0; q < {wide}; q++) {{",
            f"      float sum = {start};",
            f"      {first}",
            f"        {second}",
            f"          {third} {{",
            f"            const int y = r * {sr} + i - {pr}, z = q * {sc} + j - {pc};",
            f"            if (y >= 0 && y < {rows} && z >= 0 && z < {columns})",
            f"              sum = MULTIPLY_ADD({read}, {kernel}[((o * {inputs} + c) * {height} + i) * {width} + j], sum);",
            "          }",
            f"      {target} = sum;",
            "    }",
        ]
        body = "\n".join(lines)
        if batch > 1:
            body = f"for (int b = 0; b < {batch}; b++)\n{textwrap.indent(body, '  ')}"
        return textwrap.indent(body, "  ")

    def get_pool_side(self, convolution: Value) -> int:
        """Return the side of the blocks in which the kernel pools the output of ``convolution``; 1 without pooling."""
        pools = (value for loop in self.program.loops for value in loop.values if value.kind == "pool")
        for value in pools:
            (x,) = value.operands
            if (
                isinstance(x, ValueView)
                and get_storage(x.value) is convolution
                and value.operation != "avg_pool2d"
            ):
                side = value.settings["kernel"][0]
                return side if side <= LARGEST_POOL else 1
        return 1

    def format_pool(self, value: Value) -> str:
        """Return C of max or average pooling."""
        (x,) = value.operands
        assert isinstance(x, ValueView)
        (kr, kc), (sr, sc), (pr, pc) = (value.settings[key] for key in ("kernel", "stride", "padding"))
        rows, columns = x.shape[2:]
        largest = value.operation != "avg_pool2d"
        variables, open_, close = _format_loops(value.shape, "  ")
        whole = make_index(value.shape, variables)
        target = self.fields.format_element(value, whole)
        read = self.format_read(
            x.value, x.indices((*whole[:2], "0" if rows == 1 else "y", "0" if columns == 1 else "z"))
        )
        step = f"sum = {self.use_function('larger')}({read}, sum);" if largest else f"sum += {read};"
        if pr or pc:
            step = f"if (y >= 0 && y < {rows} && z >= 0 && z < {columns}) {step}"
        self.uses_math |= largest
        lines = [
            f"float sum = {'-INFINITY' if largest else '0.0f'};",
            f"for (int i = 0; i < {kr}; i++)",
            f"  for (int j = 0; j < {kc}; j++) {{",
            f"    const int y = {format_window_start(whole[2], sr, pr)} + i, z = {format_window_start(whole[3], sc, pc)} + j;",
            f"    {step}",
            "  }",
            f"{target} = sum{'' if largest else f' / {format_literal(float(kr * kc))}'};",
        ]
        return f"{open_}{textwrap.indent(chr(10).join(lines), '  ' * (len(variables) + 1))}\n{close}".rstrip(
            "\n"
        )

    def format_join(self, value: Value) -> str:
        """Return C of a join: the concatenation of parts along an axis."""
        axis, start, lines = value.settings["axis"], 0, []
        for part in value.operands:
            assert isinstance(part, ValueView)
            variables, open_, close = _format_loops(part.shape, "  ")
            whole = make_index(part.shape, variables)
            to = self.fields.format_element(
                value, (*whole[:axis], format_offset(whole[axis], start), *whole[axis + 1 :])
            )
            indent = "  " * (len(variables) + 1)
            if self.fields.parts.get(id(part.value), (None, 0))[0] is not value:
                lines.append(
                    f"{open_}{indent}{to} = {self.format_read(part.value, part.indices(whole))};\n{close}"
                )
            start += part.shape[axis]
        return "".join(lines).rstrip("\n")


def get_constant(value: Value, setting: str) -> tuple[Value, Tensor]:
    """Return the constant in a ``setting`` of ``value``, and its data."""
    held = value.settings[setting]
    assert isinstance(held, Value) and held.data is not None
    return held, held.data


def format_window_start(index: str, stride: int, padding: int) -> str:
    """Return the C expression of the first input position of the window at ``index``."""
    start = index if stride == 1 or index == "0" else f"{index} * {stride}"
    return f"{start} - {padding}" if padding else start


def _format_loops(shape: Iterable[int], indent: str) -> tuple[list[str], str, str]:
    """Return the variables of nested loops over ``shape``, and the C text before and after their body."""
    sizes = drop_unit_axes(tuple(shape))
    variables = [f"i{axis}" for axis in range(len(sizes))]
    opened = [
        f"{indent}{'  ' * depth}for (int {v} = 0; {v} < {size}; {v}++) {{\n"
        for depth, (v, size) in enumerate(zip(variables, sizes, strict=True))
    ]
    closed = [f"{indent}{'  ' * depth}}}\n" for depth in reversed(range(len(sizes)))]
    return variables, "".join(opened), "".join(closed)


def format_comment(text: str) -> str:
    """Return ``text`` as lines of a C comment."""
    return textwrap.fill(text, 110, initial_indent="// ", subsequent_indent="// ")
