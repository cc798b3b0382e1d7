"""NIR, the Neuromorphic Intermediate Representation: ``policy.nir``, for snnTorch, Norse and what else reads it, and back.

    dv/dt = (v_leak - v + r I) / tau   becomes, by forward Euler with dt,   v <- (1 - dt/tau) v + (r dt/tau) I

NIR's numbers are those of an equation, ours those of a step: tau is chosen such that 1 - dt/tau is the decay of our step, with
dt = 0.1 ms, which snnTorch takes whatever a file says. docs/deploying.md has the layout of the metadata.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import override

import numpy as np
import torch

from spiky_rl.config import files, registry
from spiky_rl.config.registry import Configured, UserError
from spiky_rl.deploy._nir_policy import Policy
from spiky_rl.deploy._nir_read import read
from spiky_rl.deploy._nir_write import graph_of, unsayable
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import Session, Target
from spiky_rl.hosts.rsl_rl.model import MLPModel, SpikingModel

__all__ = ["Nir", "Policy", "read"]


class Nir(Target):
    """Weights, LIF neurons and delays as NIR's nodes; encoder and decoder as metadata."""

    @override
    def require(self) -> None:
        if find_spec("nir") is None:
            raise UserError("--to nir: nir is not installed; install it with: pip install nir")

    @override
    def refuse(self, network: Configured | None) -> None:
        if reason := unsayable(network):
            raise ExportError(f"--to nir: {reason}")

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        import nir

        if not isinstance(model, SpikingModel):
            raise ExportError(f"--to nir: {unsayable(None)}")
        self.refuse(registry.configure("networks", model.settings, "network"))
        graph = graph_of(model)
        files.write(folder / "policy.nir", lambda beside: nir.write(str(beside), graph))
        return folder / "policy.nir"

    @override
    def open(self, path: Path) -> Session:
        policy = read(path)

        def step(x: np.ndarray, _state: list[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                return [policy.step(torch.from_numpy(x)).numpy()]

        return step
