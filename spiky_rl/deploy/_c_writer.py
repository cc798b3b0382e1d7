"""Writer of a control step in C: statements before, in and after the inner steps, and the declarations that they use.

A signal is a dense array; before a linear map reads it, a scan lists its non-zero channels, the events. Sums have the order of the
`cpu` backend: bias first, then the events by channel, so they are equal to the last bit.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from torch import Tensor

from spiky_rl.deploy._c_memory import Declarations, split_synapses
from spiky_rl.metrics.sparse_storage import WeightStorage


@dataclass(frozen=True)
class Signal:
    """A dense array of channels."""

    array: str
    """C expression of the array."""
    width: int
    kind: str = "float"
    """C type of its elements; those of the type uint8_t are 0 or 1."""
    constant: bool = False
    """Whether it is the same in all inner steps."""

    @property
    def binary(self) -> bool:
        """Whether its elements are spikes; else they are graded."""
        return self.kind == "uint8_t"


@dataclass(frozen=True)
class Channels:
    """An encoder's channels in the array of a signal."""

    array: str
    """C expression of the array."""
    kind: str
    """C type of its elements."""
    first: int = 0
    """Index of the encoder's first channel."""

    @property
    def start(self) -> str:
        """C expression of the address of the first channel."""
        return f"{self.array} + {self.first}" if self.first else self.array

    def get(self, index: str, offset: int = 0) -> str:
        """Return the C expression of channel ``offset`` + ``index``."""
        return f"{self.array}[{' + '.join([*(str(n) for n in (self.first, offset) if n), index])}]"

    def assign(self, index: str, value: str, offset: int = 0) -> str:
        """Return the C statement that sets channel ``offset`` + ``index`` to ``value``, which is converted to the type."""
        return f"{self.get(index, offset)} = ({self.kind}){value};"


class CWriter(Declarations):
    """Writer of a control step; its statements are collected in `once`, `step` and `last`."""

    def __init__(self, vector_width: int = 0) -> None:
        """Begin a control step; ``vector_width``: floats in a vector of the `cpu` backend, which does not fuse products with fewer outputs."""
        super().__init__()
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

    def comment(self, text: str, *blocks: list[str]) -> None:
        """Write a comment before the statements that follow in ``blocks``, by default in each inner step."""
        for block in blocks or (self.step,):
            block.append(f"\n// {text}")

    def format_loop(self, index: str, count: int | str, *body: str) -> str:
        """Return a C loop of ``index`` to ``count``."""
        head = f"for (int {index} = 0; {index} < {count}; {index}++)"
        if len(body) == 1 and "\n" not in body[0]:
            return f"{head} {body[0]}"
        return "\n".join([f"{head} {{", *(textwrap.indent(line, "  ") for line in body), "}"])

    def write_loop(self, block: list[str], index: str, count: int | str, *body: str) -> None:
        """Append a C loop of ``index`` to ``count`` to ``block``."""
        block.append(self.format_loop(index, count, *body))

    def clear(self, block: list[str], array: str, count: int) -> None:
        """Append C that sets the first ``count`` elements of ``array`` to 0 to ``block``."""
        block.append(f"memset({array}, 0, {count} * sizeof {array}[0]);")

    def clear_after_first_step(self, channels: Channels, count: int) -> None:
        """Write that ``count`` channels send nothing after the first inner step."""
        if self.steps > 1:
            self.step.append(
                f"if (k == 1) memset({channels.start}, 0, {count} * sizeof {channels.array}[0]);"
            )

    def remember(self, past: str, delays: int, signal: Signal) -> None:
        """Write ``signal`` into the array ``past`` of its values in the last ``delays`` inner steps, the latest first."""
        width = signal.width
        if delays > 1:
            self.step.append(f"memmove({past} + {width}, {past}, {width * (delays - 1)} * sizeof {past}[0]);")
        self.step.append(f"memcpy({past}, {signal.array}, {width} * sizeof {past}[0]);")

    def list_events(self, block: list[str], signal: Signal) -> None:
        """Append C that lists the events of ``signal`` to ``block``."""
        self.channels = max(self.channels, signal.width)
        event = self.add_scratch("event", signal.width, "channels with an event, in order", "event_index")
        zero = "0.0f" if signal.kind == "float" else "0"
        there = f"{signal.array}[c]" if signal.binary else f"{signal.array}[c] != {zero}"
        block.append("events = 0;")
        self.write_loop(block, "c", signal.width, f"{event}[events] = (event_index)c;", f"events += {there};")

    def write_product(
        self, block: list[str], path: str, weight: Tensor, bias: Tensor | None, signal: Signal, target: str
    ) -> None:
        """Append C that sets ``target`` to the product of ``signal`` and ``weight`` [C, N], plus ``bias`` [N], to ``block``.

        Args:
            path: Name of the weights.
            weight: Weights; sparse ones are stored as lists of synapses.
            bias: Constant terms, or None.
            target: C expression of an array of floats.
        """
        weight = weight.detach().cpu()
        inputs, outputs = weight.shape
        if bias is None or not bias.any():
            self.clear(block, target, outputs)
        else:
            constant = self.add_constant(f"{path.removesuffix('_weight')}_bias", bias)
            block.append(f"memcpy({target}, {constant}, {outputs} * sizeof {target}[0]);")
        self.list_events(block, signal)
        zeros = int((weight == 0).sum())
        fused = outputs >= self.vector_width and not signal.binary
        if outputs > 1 and zeros < weight.numel() and WeightStorage(inputs, outputs, zeros).index > 0:
            self._add_synapses(block, path, weight, signal, target, fused)
            return
        array = self.add_constant(path, weight)
        add = "add_rows" if signal.binary else "add_products" if fused else "add_few_products"
        x = "" if signal.binary else f"{signal.array}, "
        block.append(f"{self.use_function(add)}({target}, {array}, {x}s->event, events, {outputs});")

    def _add_synapses(
        self, block: list[str], path: str, weight: Tensor, signal: Signal, target: str, fused: bool
    ) -> None:
        """Append C that adds the lists of synapses of the events to ``target``."""
        array, neuron, start = (
            self.add_constant(f"{path}{name}", numbers)
            for name, numbers in zip(("", "_neuron", "_start"), split_synapses(weight), strict=True)
        )
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
