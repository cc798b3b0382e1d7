"""``policy.c`` and ``policy.h`` in integers: int8 weights, fixed-point states, no floats in the inner steps.

Every neuron has a unit; its weights, threshold and bias are whole numbers of it, so a spike adds a row of int8 to an accumulator.
Ranges come from a rollout of the policy. The file equals a quantised reference in torch to the last bit; the reference can be
evaluated in the place of the policy. The difference from the policy in single precision is measured and printed.

Source: Jacob et al. (2018), integer-arithmetic-only inference; Davies et al. (2018), LIF neurons with weights of 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast, override

from spiky_rl.config.plain_data import PlainMapping, get_section
from spiky_rl.deploy.base import (
    BINARY_SPIKE_RULES,
    ExportError,
    Session,
    Target,
    describe_model,
    find_parts,
    find_values,
)
from spiky_rl.deploy.c import DECODERS, ENCODERS, open_c_session, require_compiler

if TYPE_CHECKING:
    from spiky_rl.deploy._calibration import CalibrationRollout
    from spiky_rl.deploy._int8_network import Int8Network
    from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

BINARY_NEURONS = ("alif", "lif", "quadratic")
"""Neurons that spike; those with graded events have no recurrent int8 implementation."""
MAX_POTENTIAL = 32767
"""Largest size of a quadratic neuron's peak and reset: 32 bits have 16 below the unit, see `_int8_layers.REAL_BITS`."""


class CInt8(Target):
    """A C99 file and its header, for chips without a floating-point unit, or without memory for weights of 32 bits."""

    needs_rollout = is_c = maps_actions = gives_commands = True
    reference_text = "in int8"
    supported = {
        "network.name": ("feedforward",),
        "network.encoder.name": ENCODERS,
        "network.connection.name": ("linear",),
        "network.recurrent.name": ("lateral", "recurrent"),
        "network.neuron.name": (*BINARY_NEURONS, "sigma_delta"),
        "network.decoder.name": DECODERS,
        "network.learning.name": BINARY_SPIKE_RULES,
        "actor.distribution_cfg.class_name": ("GaussianDistribution",),
    }
    own = ("network.learning.name",)

    def __init__(self) -> None:
        self.rollout: CalibrationRollout | None = None
        self.network: Int8Network | None = None

    @override
    def check_requirements(self) -> None:
        require_compiler("c-int8")

    @override
    def check_network(self, agent: PlainMapping) -> None:
        super().check_network(agent)
        if get_section(agent, "network").get("recurrent"):
            for key, neuron in find_values(agent, "network.neuron.name"):
                if neuron not in BINARY_NEURONS:
                    raise self.refusal(key, f"{neuron} beside agent.network.recurrent", BINARY_NEURONS)
        for key, neuron in find_parts(agent, "network.neuron"):
            for name in ("peak", "reset"):
                value = neuron.get(name) if isinstance(neuron, Mapping) else None
                if isinstance(value, int | float) and abs(value) > MAX_POTENTIAL:
                    raise self.refusal(f"{key}.{name}", f"{value}", [f"-{MAX_POTENTIAL} to {MAX_POTENTIAL}"])

    @override
    def calibrate(self, rollout: CalibrationRollout) -> None:
        self.rollout = rollout

    def quantize(self, model: SpikingModel) -> Int8Network:
        """Quantise the network of ``model``. Raises ExportError if it has no int8 implementation."""
        from spiky_rl.deploy._calibration import compute_ranges
        from spiky_rl.deploy._int8_network import Int8Network
        from spiky_rl.networks.feedforward import FeedForward

        self.check_network(describe_model(model))
        if self.rollout is None:
            raise ExportError("c_int8: no ranges of the states; call calibrate() with a rollout first")
        assert isinstance(model.network, FeedForward)
        return Int8Network(model.network, compute_ranges(model, self.rollout))

    @override
    def get_reference_model(self, model: MLPModel) -> SpikingModel:
        from spiky_rl.deploy._int8_network import replace_network

        spiking = cast("SpikingModel", model)
        return replace_network(spiking, self.network or self.quantize(spiking))

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.deploy._c_text import write_policy

        spiking = cast("SpikingModel", model)
        self.network = self.quantize(spiking)
        return write_policy(self, spiking, folder / "int8", int8_network=self.network)

    @override
    def open_session(self, path: Path) -> Session:
        return open_c_session(path)
