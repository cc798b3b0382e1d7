"""``policy.c`` and ``policy.h`` in integers: int8 weights, fixed-point states, no float within the inner steps.

A weight is a whole number of its output neuron's own unit, and so are threshold and bias: a spike adds a row of int8 to an
accumulator. Ranges come from a rollout of the policy. The file equals a reference in torch to the last bit, and the reference
can be evaluated in the policy's place; how far both are from the policy in single precision is measured and said.

Source: Jacob et al. (2018), integers alone at inference; Davies et al. (2018), LIF neurons with weights of 8 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import override

from spiky_rl.config.registry import Configured
from spiky_rl.deploy import _calibration, _int8_read
from spiky_rl.deploy._c_text import write_files
from spiky_rl.deploy._calibration import Rollout
from spiky_rl.deploy._int8_network import IntegerNetwork, with_network
from spiky_rl.deploy._int8_text import Text
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import Session, Target
from spiky_rl.deploy.c import require_compiler, session, sizes
from spiky_rl.hosts.rsl_rl.export import about
from spiky_rl.hosts.rsl_rl.model import MLPModel, SpikingModel

PLAIN = ("_IdentityDeterministicOutput",)
"""rsl_rl's modules between features and action that change nothing."""


class CInt8(Target):
    """One C99 file and its header, for chips without a floating-point unit, or without room for 32 bits a weight."""

    observes = in_c = True

    def __init__(self) -> None:
        self.rollout: Rollout | None = None
        self.network: IntegerNetwork | None = None

    @override
    def require(self) -> None:
        require_compiler("c-int8")

    @override
    def refuse(self, network: Configured | None) -> None:
        _int8_read.refuse_configured(network)

    @override
    def calibrate(self, rollout: Rollout) -> None:
        self.rollout = rollout

    def quantised(self, model: SpikingModel) -> IntegerNetwork:
        """The network of a ``model`` in integers. Raises ExportError where it has no such form."""
        network = _int8_read.require_known(model.network)
        if self.rollout is None:
            raise ExportError(
                "c_int8: ranges are not known; let the target see a rollout first (`calibrate`)"
            )
        if model.distribution is not None:
            output = type(model.distribution.as_deterministic_output_module()).__name__
            if output not in PLAIN:
                raise ExportError(
                    f"c_int8: distribution {type(model.distribution).__name__!r} computes with what it gets; choose GaussianDistribution"
                )
        return _int8_read.integers(network, _calibration.ranges(model, self.rollout))

    @override
    def reference(self, model: MLPModel) -> SpikingModel:
        model = spiking(model)
        return with_network(model, self.network or self.quantised(model))

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        self.network = self.quantised(spiking(model))
        text = Text(self.network, model.obs_normalizer)
        header = text.header(about(model, {}, {}, [], "", "")["usage"])
        return write_files(folder / "int8", text.source(), header)

    @override
    def open(self, path: Path) -> Session:
        return session(path, sizes(path)["BYTES"] // 4)


def spiking(model: MLPModel) -> SpikingModel:
    """The ``model``, if it spikes; else raise ExportError."""
    if not isinstance(model, SpikingModel):
        raise ExportError(_int8_read.NO_SPIKES)
    return model
