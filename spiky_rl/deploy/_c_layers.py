"""A layer of neurons in C: its connection, its feedback and the loop over its neurons, in floats and in integers alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from spiky_rl.deploy._c_term import Term
from spiky_rl.deploy._c_writer import CWriter, Signal


class LayerWriter(ABC):
    """Writer of a layer. The kinds of numbers differ in the sums of a connection and in the statements of a neuron.

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
        if self.delays:
            w.write_past_output(past.array, self.delays, output)
        return output
