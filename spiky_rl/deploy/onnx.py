"""ONNX: ``policy.onnx``, for ONNX Runtime and other runtimes; the state is an input and an output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, override

import numpy as np

from spiky_rl.deploy.base import Session, Target

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel

log = logging.getLogger(__name__)


class Onnx(Target):
    """An ONNX graph of the torch backend's operations. The tolerance is for runtimes, which sum in other orders."""

    maps_actions = True
    stale_files = ("policy.onnx.data",)
    tolerance = 1e-4
    max_mismatch_share = 0.01

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.learners.rsl_rl.export import write_onnx

        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter
            write_onnx(model, folder / "policy.onnx")
        return folder / "policy.onnx"

    @override
    def open_session(self, path: Path) -> Session | None:
        try:
            import onnxruntime
        except ImportError:
            log.warning(
                "onnxruntime is not installed: %s was written but not verified (pip install onnxruntime)",
                path.name,
            )
            return None
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # by default, a thread per core
        graph = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [node.name for node in graph.get_inputs()]

        def step(x: np.ndarray, state: list[np.ndarray]) -> list[np.ndarray]:
            return [np.asarray(y) for y in graph.run(None, dict(zip(names, [x, *state], strict=True)))]

        return step
