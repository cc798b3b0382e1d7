"""Writers of a control step in C, and of a layer of neurons in its inner steps, in floats and in integers alike.

A signal is a dense array; before a linear map reads it, a scan lists its non-zero channels, the events. Sums have the order of the
`cpu` backend: bias first, then the events by channel, so they are equal to the last bit.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from spiky_rl.connections._cost import WeightStorage
from spiky_rl.deploy._c_term import Term
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels.emit import format_literal

CSRC = Path(__file__).parent / "csrc"
"""Folder of the templates of the files, and of the helper functions."""
ELEMENT_BYTES = {
    "int64_t": 8,
    "int32_t": 4,
    "float": 4,
    "int16_t": 2,
    "uint16_t": 2,
    "uint8_t": 1,
    "int8_t": 1,
}
"""Bytes of an element, by C type."""
INTEGER_TYPES = (
    ("int8_t", -127, 127),
    ("uint8_t", 0, 2**8 - 1),
    ("int16_t", 1 - 2**15, 2**15 - 1),
    ("uint16_t", 0, 2**16 - 1),
    ("int32_t", 1 - 2**31, 2**31 - 1),
)
"""C types of constants, the smallest first, with their ranges."""
NEEDS_MATH = re.compile(r"\b(rintf|sqrtf|expf|expm1f|log1pf|erff|INFINITY)\b")
"""Names of <math.h> that helper functions use."""


FUNCTIONS = {
    re.findall(r"^(?:#define|static \w+) (\w+)\(", text, re.MULTILINE)[-1]: f"{text}\n"
    for text in (CSRC / "functions.c").read_text(encoding="utf-8").removesuffix("\n").split("\n\n")[1:]
}
"""Helper functions of ``functions.c`` by name, callees first, each with its comment and the helpers that no other function calls."""


@dataclass(frozen=True)
class StructField:
    """An array of the struct."""

    kind: str
    name: str
    size: int
    text: str
    carried: bool = False
    """Whether it is state that is kept between control steps."""


@dataclass(frozen=True)
class Signal:
    """A dense array of channels."""

    array: str
    """C expression of the array."""
    width: int
    kind: str = "float"
    """C type of its elements; uint8_t for spikes, 0 or 1."""
    constant: bool = False
    """Whether it is the same in all inner steps."""
    first: int = 0
    """Index of the first channel in the array."""

    @property
    def binary(self) -> bool:
        """Whether its elements are spikes."""
        return self.kind == "uint8_t"

    def get(self, index: str, offset: int = 0) -> str:
        """Return the C expression of channel ``offset`` + ``index``."""
        return f"{self.array}[{' + '.join([*(str(n) for n in (self.first, offset) if n), index])}]"

    def assign(self, index: str, value: str, offset: int = 0) -> str:
        """Return the C statement that converts ``value`` to the type and sets channel ``offset`` + ``index`` to it."""
        return f"{self.get(index, offset)} = ({self.kind}){value};"


class CWriter:
    """Writer of a control step; its statements are collected in `once`, `step` and `last`."""

    def __init__(self, vector_width: int = 0) -> None:
        """Begin a control step.

        ``vector_width`` is the number of floats in a vector of the `cpu` backend. The backend does not fuse the multiplications and
        additions of a map with fewer outputs, so the file does not fuse them either.
        """
        self.vector_width = vector_width
        self.steps = 1
        """Number of inner steps."""
        self.stateful = False
        """Whether state is kept between control steps."""
        self.once: list[str] = []
        """Statements before the inner steps."""
        self.step: list[str] = []
        """Statements of each inner step k."""
        self.last: list[str] = []
        """Statements after the inner steps."""
        self.fields: dict[str, StructField] = {}
        self.constants: dict[str, str] = {}
        """Declarations of constant arrays by name."""
        self.constant_bytes = 0
        self.functions: set[str] = set()
        """Names of the helper functions that are called."""
        self.channels = 1
        """Largest number of channels whose events are listed."""

    # declarations

    @property
    def index_type(self) -> str:
        """C type of ``event_index``."""
        return "uint16_t" if self.channels < 2**16 else "int32_t"

    @property
    def state_fields(self) -> list[StructField]:
        """Arrays of the struct that are kept between control steps."""
        return [field for field in self.fields.values() if field.carried]

    @property
    def struct(self) -> str:
        """Declarations of the struct's arrays, the largest elements first, so that no padding lies between them."""
        order = sorted(self.fields.values(), key=lambda f: (-ELEMENT_BYTES[self.resolve(f)], not f.carried))
        scratch = "" if self.stateful else " (scratch)"  # a control step that begins at rest keeps nothing
        return "\n".join(
            f"  {self.resolve(f)} {f.name}[{f.size}];  // {f.text}{scratch if f.carried else ''}"
            for f in order
        )

    @property
    def struct_bytes(self) -> int:
        """Bytes of the struct, rounded up to the alignment of its largest elements."""
        align = max(ELEMENT_BYTES[self.resolve(field)] for field in self.fields.values())
        return -(-self.count_bytes(self.fields.values()) // align) * align

    @property
    def helpers(self) -> str:
        """Text of the helper functions, in the order in which C needs them."""
        return "\n".join(text for name, text in FUNCTIONS.items() if name in self.functions)

    def resolve(self, field: StructField) -> str:
        """Return the C type of a ``field``'s elements in the header."""
        return self.index_type if field.kind == "event_index" else field.kind

    def count_bytes(self, fields: Iterable[StructField]) -> int:
        """Return the bytes of the elements of ``fields``."""
        return sum(ELEMENT_BYTES[self.resolve(field)] * field.size for field in fields)

    def add_scratch(self, name: str, size: int, text: str, kind: str = "float") -> str:
        """Declare an array of the struct that is used within one control step, and return its C expression.

        Args:
            name: Name of the array.
            size: Number of elements that this use needs; the array has the size of its largest use.
            text: Description of its content, for a comment.
            kind: C type of its elements.
        """
        return self._add_field(StructField(kind, name, size, f"{text} (scratch)"))

    def add_state(self, name: str, size: int, text: str, kind: str = "float") -> str:
        """Declare an array of the struct that is kept between control steps; see `add_scratch`."""
        return self._add_field(StructField(kind, name, size, text, carried=True))

    def add_output(self, name: str, size: int, text: str) -> str:
        """Declare an array of the struct that is a result of a control step for the caller; see `add_scratch`."""
        return self._add_field(StructField("float", name, size, text))

    def _add_field(self, field: StructField) -> str:
        known = self.fields.get(field.name)
        if known is None or known.size < field.size:
            self.fields[field.name] = field
        return f"s->{field.name}"

    def add_constant(self, name: str, values: Tensor, kind: str = "") -> str:
        """Declare a constant array of ``values``, once, and return its ``name``.

        Args:
            name: Name of the array.
            values: Floats, which keep their exact value, or integers; flattened.
            kind: C type of the elements of integers; empty for the smallest type that holds all.
        """
        if name in self.constants:
            return name
        flat, columns = values.detach().cpu().reshape(-1), 24
        if flat.is_floating_point():
            kind, columns, numbers = "float", 12, [_format_number(x) for x in flat.float().numpy()]
        else:
            low, high = int(flat.min()), int(flat.max())
            kind = kind or next(k for k, least, most in INTEGER_TYPES if least <= low and high <= most)
            numbers = [str(x) for x in flat.tolist()]
        rows = ",\n  ".join(", ".join(row) for row in itertools.batched(numbers, columns))
        self.constants[name] = f"static const {kind} {name}[{len(numbers)}] = {{\n  {rows}}};"
        self.constant_bytes += len(numbers) * ELEMENT_BYTES[kind]
        return name

    def format_element(self, name: str, values: Tensor, index: str = "n") -> str:
        """Return the C expression of element ``index`` of ``values``: a number if all are equal, else of the constant ``name``."""
        flat = values.detach().cpu().reshape(-1)
        if not bool((flat == flat[0]).all()):
            return f"{self.add_constant(name, flat)}[{index}]"
        return (
            format_literal(_check_finite(float(flat[0]))) if flat.is_floating_point() else str(int(flat[0]))
        )

    def use_function(self, name: str) -> str:
        """Add the helper function ``name`` of `FUNCTIONS`, and those that it calls, to the file and return its name."""
        if name not in self.functions:
            self.functions.add(name)
            for called in FUNCTIONS.keys() & set(re.findall(r"(\w+)\(", FUNCTIONS[name])):
                self.use_function(called)
        return name

    # statements

    def write_comment(self, text: str, *blocks: list[str]) -> None:
        """Write a comment before the statements that follow in ``blocks``, by default in each inner step."""
        for block in blocks or (self.step,):
            block.append(f"\n// {text}")

    def format_loop(self, index: str, count: int | str, *body: str) -> str:
        """Return a C loop over ``body`` in which ``index`` runs from 0 to ``count`` - 1."""
        head = f"for (int {index} = 0; {index} < {count}; {index}++)"
        if len(body) == 1 and "\n" not in body[0]:
            return f"{head} {body[0]}"
        return "\n".join([f"{head} {{", *(textwrap.indent(line, "  ") for line in body), "}"])

    def write_loop(self, block: list[str], index: str, count: int | str, *body: str) -> None:
        """Append `format_loop` to ``block``."""
        block.append(self.format_loop(index, count, *body))

    def write_clear(self, block: list[str], array: str, count: int) -> None:
        """Append C to ``block`` that sets the first ``count`` elements of ``array`` to 0."""
        block.append(f"memset({array}, 0, {count} * sizeof {array}[0]);")

    def clear_after_first_step(self, signal: Signal, count: int) -> None:
        """Write that the first ``count`` channels of ``signal`` send nothing after the first inner step."""
        if self.steps > 1:
            start = f"{signal.array} + {signal.first}" if signal.first else signal.array
            self.step.append(f"if (k == 1) memset({start}, 0, {count} * sizeof {signal.array}[0]);")

    def write_event_list(self, block: list[str], signal: Signal) -> None:
        """Append C to ``block`` that lists the events of ``signal``."""
        self.channels = max(self.channels, signal.width)
        event = self.add_scratch("event", signal.width, "channels with an event, in order", "event_index")
        zero = "0.0f" if signal.kind == "float" else "0"
        is_event = f"{signal.array}[c]" if signal.binary else f"{signal.array}[c] != {zero}"
        block.append("events = 0;")
        # every channel is written, and the next one overwrites it unless it is an event
        self.write_loop(
            block, "c", signal.width, f"{event}[events] = (event_index)c;", f"events += {is_event};"
        )

    def write_product(
        self, block: list[str], path: str, weight: Tensor, bias: Tensor | None, signal: Signal, target: str
    ) -> None:
        """Append C to ``block`` that sets ``target`` to the product of ``signal`` and ``weight``, plus ``bias``.

        Args:
            block: `once`, `step` or `last`.
            path: Name of the weights.
            weight: [C, N]; sparse weights are stored as lists of synapses.
            bias: [N], or None.
            signal: C channels.
            target: C expression of an array of N floats.
        """
        weight = weight.detach().cpu()
        inputs, outputs = weight.shape
        if bias is None or not bias.any():
            self.write_clear(block, target, outputs)
        else:
            constant = self.add_constant(f"{path.removesuffix('_weight')}_bias", bias)
            block.append(f"memcpy({target}, {constant}, {outputs} * sizeof {target}[0]);")
        self.write_event_list(block, signal)
        zeros = int((weight == 0).sum())
        fused = outputs >= self.vector_width and not signal.binary
        if outputs > 1 and zeros < weight.numel() and WeightStorage(inputs, outputs, zeros).has_lists:
            self._add_synapses(block, path, weight, signal, target, fused)
            return
        function = "add_rows" if signal.binary else "add_products" if fused else "add_few_products"
        self.write_row_sum(block, function, path, weight, signal, target)

    def write_row_sum(
        self,
        block: list[str],
        function: str,
        path: str,
        weight: Tensor,
        signal: Signal,
        target: str,
        kind: str = "",
    ) -> None:
        """Append C to ``block`` that adds the rows of ``weight`` [C, N] of the events of ``signal`` to ``target`` by a helper ``function``."""
        array, outputs = self.add_constant(path, weight, kind), weight.shape[1]
        x = "" if signal.binary else f"{signal.array}, "
        block.append(f"{self.use_function(function)}({target}, {array}, {x}s->event, events, {outputs});")

    def _add_synapses(
        self, block: list[str], path: str, weight: Tensor, signal: Signal, target: str, fused: bool
    ) -> None:
        """Append C to ``block`` that adds the synapses of the events to ``target``.

        The constants are the values, the neurons, and the start of each input's list, [C + 1].
        """
        has_synapse = weight != 0
        array = self.add_constant(path, weight[has_synapse])
        neuron = self.add_constant(f"{path}_neuron", has_synapse.nonzero()[:, 1])
        start = self.add_constant(f"{path}_start", functional.pad(has_synapse.sum(1).cumsum(0), (1, 0)))
        total = f"{target}[{neuron}[i]]"
        if signal.binary:
            text = f"{total} += {array}[i];"
        elif fused:
            self.use_function("MULTIPLY_ADD")
            text = f"{total} = MULTIPLY_ADD({signal.array}[c], {array}[i], {total});"
        else:
            text = f"{total} += {signal.array}[c] * {array}[i];"
        body = f"for (int i = {start}[c]; i < {start}[c + 1]; i++) {text}"
        self.write_loop(block, "e", "events", "const int c = s->event[e];", body)


class LayerWriter(ABC):
    """Writer of a layer: its connection, its feedback and the loop over its neurons.

    The kinds of numbers differ in the sums of a connection and in the statements of a neuron.

    A `Term` that a method takes or returns is of neuron n.
    """

    def __init__(
        self, w: CWriter, path: str, width: int, delays: int, output_type: str, state_types: dict[str, str]
    ) -> None:
        """Begin a layer.

        Args:
            w: Writer of the file.
            path: Prefix of the names of the layer's arrays.
            width: Number of neurons.
            delays: Number of delays of the recurrent connection; 0 without one.
            output_type: C type of the output; uint8_t for spikes.
            state_types: C type of each state of a neuron.
        """
        self.w, self.path, self.width, self.delays = w, path, width, delays
        self.output_type, self.state_types = output_type, state_types
        self.body: list[str] = []
        """Statements of the loop over the neurons."""

    @abstractmethod
    def write_current(self, block: list[str], signal: Signal, name: str) -> Term:
        """Append C to ``block`` that computes the connection's current, in an array ``name``, and return the current."""

    @abstractmethod
    def write_feedback(self, past: Signal) -> Term:
        """Write the current that the ``past`` outputs send back, and return it."""

    @abstractmethod
    def write_step(self, current: Term, states: list[Term]) -> str:
        """Add an inner step of neuron n, which assigns its ``states``, to `body`; return the C expression of the output."""

    def write(self, title: str, signal: Signal) -> Signal:
        """Write an inner step of the layer with the input ``signal``, and return its output; ``title``: comment before it."""
        w, width, kind = self.w, self.width, self.output_type
        w.write_comment(title)
        name, block = "current", w.step
        if signal.constant:
            name, block = f"{self.path}_connection_current", w.once
            w.write_comment(f"{self.path}_connection: its current is the same in all inner steps", block)
        current = self.write_current(block, signal, name)
        past = Signal("", width * self.delays, kind)
        if self.delays:
            text = "its output in the last inner steps, the latest first"
            past = replace(past, array=w.add_state(f"{self.path}_past", past.width, text, kind))
            current = current + self.write_feedback(past)
        states = [
            w.add_state(f"{self.path}_neuron_{name}", width, f"state {name} of a neuron", c_type)
            for name, c_type in self.state_types.items()
        ]
        value = self.write_step(current, [current.make(f"{state}[n]") for state in states])
        name, text = ("fired", "spikes of a layer") if kind == "uint8_t" else ("sent", "output of a layer")
        output = Signal(w.add_scratch(name, width, text, kind), width, kind)
        w.write_loop(w.step, "n", width, *self.body, f"{output.array}[n] = {value};")
        if self.delays > 1:
            older = width * (self.delays - 1)
            w.step.append(f"memmove({past.array} + {width}, {past.array}, {older} * sizeof {past.array}[0]);")
        if self.delays:
            w.step.append(f"memcpy({past.array}, {output.array}, {width} * sizeof {past.array}[0]);")
        return output


def _format_number(x: np.float32) -> str:
    _check_finite(x)
    is_plain = x == 0 or 1e-4 <= abs(x) < 1e7
    text = (np.format_float_positional if is_plain else np.format_float_scientific)(x, unique=True, trim="0")
    return f"{text}f"


def _check_finite[Number: (float, np.float32)](x: Number) -> Number:
    if not np.isfinite(x):
        raise ExportError(f"a weight is {x}; weights must be finite")
    return x
