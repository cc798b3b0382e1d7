"""TorchScript: ``policy.pt``, for libtorch; the module holds the state, and ``reset()`` resets it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, override

import numpy as np

from spiky_rl.deploy.base import Session, Target

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel


class TorchScript(Target):
    """A traced module of the torch backend's operations."""

    maps_actions = True

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.learners.rsl_rl.export import write_torchscript

        write_torchscript(model, folder / "policy.pt")
        return folder / "policy.pt"

    @override
    def open_session(self, path: Path) -> Session:
        import torch

        scripted = torch.jit.load(path)
        scripted.reset()

        def step(x: np.ndarray, _state: list[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                return [scripted(torch.from_numpy(x)).numpy()]

        return step
