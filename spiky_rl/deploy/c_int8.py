"""``policy.c`` and ``policy.h`` in integers: int8 weights, fixed-point states, no float within the inner steps.

A weight is a whole number of its output neuron's own unit, and so are threshold and bias: a spike adds a row of int8 to an
accumulator. Ranges come from a rollout of the policy. The file equals a reference in torch to the last bit, and the reference
can be evaluated in the policy's place; how far both are from the policy in single precision is measured and said.

Source: Jacob et al. (2018), integers alone at inference; Davies et al. (2018), LIF neurons with weights of 8 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, override

from spiky_rl.config.plain_data import PlainMapping, get_section
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import WHOLE_SPIKES, Session, Target, describe_model, values
from spiky_rl.deploy.c import open_c_session, read_sizes, require_compiler

if TYPE_CHECKING:
    from spiky_rl.deploy._calibration import CalibrationRollout
    from spiky_rl.deploy._int8_network import IntegerNetwork
    from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

GRADED = ("sigma_delta",)
"""Neurons whose events are numbers, which have no recurrent form."""


class CInt8(Target):
    """One C99 file and its header, for chips without a floating-point unit, or without room for 32 bits a weight."""

    observes = in_c = True
    changed = "in its own numbers"
    supported = {
        "network.name": ("feedforward",),
        "network.encoder.name": ("delta", "direct", "rate", "sigma_delta"),
        "network.connection.name": ("linear",),
        "network.recurrent.name": ("lateral", "recurrent"),
        "network.neuron.name": ("alif", "lif", "sigma_delta"),
        "network.decoder.name": ("linear", "membrane", "population_vector", "rate", "sigma_delta"),
        "network.learning.name": WHOLE_SPIKES,
        "actor.distribution_cfg.class_name": ("GaussianDistribution",),
    }
    own = ("network.learning.name",)

    def __init__(self) -> None:
        self.rollout: CalibrationRollout | None = None
        self.network: IntegerNetwork | None = None

    @override
    def check_requirements(self) -> None:
        require_compiler("c-int8")

    @override
    def check_network(self, agent: PlainMapping) -> None:
        super().check_network(agent)
        if get_section(agent, "network").get("recurrent"):
            for place, neuron in values(agent, "network.neuron.name"):
                if neuron in GRADED:
                    whole = [name for name in self.supported["network.neuron.name"] if name not in GRADED]
                    raise self.refusal(place, f"{neuron} beside agent.network.recurrent", whole)

    @override
    def calibrate(self, rollout: CalibrationRollout) -> None:
        self.rollout = rollout

    def quantize(self, model: SpikingModel) -> IntegerNetwork:
        """The network of a ``model`` in integers. Raises ExportError where it has no such form."""
        from spiky_rl.deploy import _calibration, _int8_read

        self.check_network(describe_model(model))
        if self.rollout is None:
            raise ExportError(
                "c_int8: ranges are not known; let the target see a rollout first (`calibrate`)"
            )
        network = _int8_read.require_known(model.network)
        return _int8_read.quantize_network(network, _calibration.compute_ranges(model, self.rollout))

    @override
    def get_reference_model(self, model: MLPModel) -> SpikingModel:
        from spiky_rl.deploy._int8_network import with_network

        spiking = cast("SpikingModel", model)
        return with_network(spiking, self.network or self.quantize(spiking))

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.deploy._c_text import write_files
        from spiky_rl.deploy._int8_text import Int8PolicyWriter
        from spiky_rl.learners.rsl_rl.export import make_metadata

        self.network = self.quantize(cast("SpikingModel", model))
        text = Int8PolicyWriter(self.network, model.obs_normalizer)
        header = text.header(make_metadata(model, {}, {}, [], "", "")["usage"])
        return write_files(folder / "int8", text.source(), header)

    @override
    def open_session(self, path: Path) -> Session:
        return open_c_session(path, read_sizes(path)["BYTES"] // 4)
