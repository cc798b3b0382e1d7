"""NIR, the Neuromorphic Intermediate Representation: ``policy.nir``, for snnTorch, Norse and other readers; and its reader here.

    dv/dt = (v_leak - v + r I) / tau   becomes, by forward Euler with dt,   v <- (1 - dt/tau) v + (r dt/tau) I

NIR has parameters of the differential equation, this package those of a step. tau is chosen such that 1 - dt/tau is the decay of a
step, with dt = 0.1 ms, which snnTorch assumes for every file. docs/deploying.md has the layout of the metadata.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, override

import numpy as np

from spiky_rl.config import files, registry
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.deploy.base import BINARY_SPIKE_RULES, Session, Target, describe_model, find_parts, find_values
from spiky_rl.networks._nir_graph import require_nir

if TYPE_CHECKING:
    from torch import Tensor

    from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel
    from spiky_rl.networks.base import SpikingNetwork, State


class Nir(Target):
    """A NIR graph: weights, LIF neurons and delays as nodes, encoder and decoder as metadata."""

    supported = {
        "network.name": ("feedforward", "nir"),
        "network.neuron.name": ("lif", "cuba_lif"),
        "network.connection.name": ("convolutional", "linear"),
        "network.encoder.name": tuple(registry.list_names("encoders")),
        "network.decoder.name": ("linear", "membrane", "population_vector", "rate"),
        "network.learning.name": BINARY_SPIKE_RULES,
        "actor.distribution_cfg.class_name": ("GaussianDistribution",),
    }
    own = ("network.learning.name", "actor.distribution_cfg.class_name")

    class Options(Settings):
        version: Literal["current", "1.0.4"] = option(
            "current",
            "version of the format: 1.0.4 for libraries that pin nir to it, as sinabs and Rockpool do",
        )

    def __init__(self, options: Options | None = None) -> None:
        self.version = (options or self.Options()).version

    @override
    def check_requirements(self) -> None:
        if find_spec("nir") is None:
            raise UserError("--to nir: nir is not installed; install it with: pip install nir")
        require_nir("--to nir")

    @override
    def check_network(self, agent: PlainMapping) -> None:
        super().check_network(agent)
        for key, connection in find_parts(agent, "network.connection"):
            if not isinstance(connection, Mapping) or connection.get("pool", 1) == 1:
                continue
            if connection.get("pooling", "max") == "max":
                raise self.refusal(f"{key}.pooling", "max", ["average"])
        connections = dict(find_values(agent, "network.connection.name"))
        for key, name in find_values(agent, "network.recurrent.name"):
            paths = list(connections)
            if "[" in key:  # of one layer; a connection without an index is that of every layer
                paths = [key.replace("recurrent", "connection"), "network.connection.name"]
            if "convolutional" in [connections.get(path) for path in paths]:
                raise self.refusal(key, f"{name} behind convolutional", ["null", f"{name} behind linear"])

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        import nir

        from spiky_rl.deploy._nir_write import build_graph, get_codecs

        agent = dict(describe_model(model))
        self.check_network(agent)
        spiking = cast("SpikingModel", model)
        self.check_network({**agent, "network": {**spiking.settings, **get_codecs(spiking)}})
        is_old_version = self.version != "current"
        graph = build_graph(spiking, is_old_version)

        def write(beside: Path) -> None:
            nir.write(str(beside), graph)
            if is_old_version:
                _age(beside, self.version)

        files.write_atomically(folder / "policy.nir", write)
        return folder / "policy.nir"

    @override
    def open_session(self, path: Path) -> Session:
        import torch

        policy = read(path)

        def step(x: np.ndarray, _state: list[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                return [policy.step(torch.from_numpy(x)).numpy()]

        return step


def _age(path: Path, version: str) -> None:
    """Change the file ``path`` to an older ``version`` of the format, in which neurons have no v_reset."""
    import h5py

    with h5py.File(path, "r+") as file:
        del file["version"]
        file["version"] = version
        nodes = cast(h5py.Group, file["node/nodes"])
        for name in nodes:
            if f"{name}/v_reset" in nodes:
                del nodes[f"{name}/v_reset"]


class NirPolicy:
    """A policy that was read from a file. It runs on the torch backend and is equal to the exported policy to the last bit.

    Attributes:
        network: The network of the file.
        inputs: Shape of an observation.
        steps: Inner steps per control step, K.
        stateful: Whether potentials are kept between control steps.
        spikes: Spikes of every layer in the last call, [K, B, N].
    """

    def __init__(self, network: SpikingNetwork, inputs: tuple[int, ...]) -> None:
        """Build the policy of a ``network`` that takes observations of the shape ``inputs``."""
        self.network, self.inputs = network, inputs
        self.steps, self.stateful = network.steps, network.stateful
        self.spikes: list[Tensor] = []
        self._state: State | None = None

    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the state of all robots, or of those with ``dones`` [B], as at the start of an episode."""
        if dones is None:
            self._state = None
        elif self._state is not None:
            done = dones.view(-1, 1) > 0
            self._state = tuple(s.masked_fill(done, 0.0) for s in self._state)

    def step(self, observation: Tensor) -> Tensor:
        """Run a control step: observations [B, ...] of any number type, not normalised -> actions [B, A].

        Raises UserError if an observation's shape is not ``inputs``, or the number of robots changes without a reset.
        """
        shape = observation.shape[1:]
        if observation.ndim < 2 or shape.numel() != math.prod(self.inputs):
            raise UserError(f"observation: shape {list(shape)} given; allowed: {list(self.inputs)}")
        x = observation.flatten(1).float()
        from spiky_rl.networks.base import ForwardRecord

        record = ForwardRecord(only_signals=True)
        state = self._get_state(x) if self.stateful else None
        features, state = self.network(x[None], state, record=record)
        self.spikes = [signal[0] for signal in record.layer_spikes]
        if self.stateful:
            self._state = state
        return features[0]

    def _get_state(self, x: Tensor) -> State:
        """Return the state before the next step, [1, B, size] each, for observations ``x`` [B, O]."""
        if self._state is None:
            return self.network.zero_state(len(x), x)
        if self._state[0].shape[1] != len(x):
            raise UserError(
                f"observation: {len(x)} robots given; allowed: {self._state[0].shape[1]}, as in the state; call reset() first"
            )
        return self._state


def read(path: Path | str) -> NirPolicy:
    """Read the policy in the file ``path``.

    Raises UserError if the file is not a NIR file, was not written by ``spiky export``, or is damaged.
    """
    from spiky_rl.kernels import dispatch
    from spiky_rl.networks._nir_graph import NirReadOptions, read_content

    content = read_content(NirReadOptions(str(path)))
    if not content.is_own_export or content.readout is None:
        raise UserError(
            f"{path}: not written by spiky export --to nir; run it as an agent: agent.network.name=nir agent.network.file={path}"
        )
    settings = {"name": "nir", "file": str(path), "backend": dispatch.REFERENCE}
    network = registry.configure("networks", settings, str(path)).build(
        inputs=content.inputs, outputs=len(content.readout[0])
    )
    return NirPolicy(network.requires_grad_(False), content.inputs)
