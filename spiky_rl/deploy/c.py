"""``policy.c`` and ``policy.h``: a trained policy in C99, without a library, memory of its own or global state.

The caller owns one struct. A spike adds a row of weights; sums run in the order of the `cpu` backend, with its fused
multiply-adds where it has them and the target does too, so the actions are bit-equal to the live policy's. Of a convolution that torch
sums they are bit-equal to the policy whose convolutions the backend's kernels sum: torch's order depends on CPU, batch and threads.
"""

from __future__ import annotations

import copy
import ctypes
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import numpy as np

from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping, get_section
from spiky_rl.deploy.base import Session, Target, strip_module

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel

STANDARD = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion")
"""What the file compiles under without a warning."""


OTHER_ORDER = 1e-5
"""Difference of an action that counts as equal where torch sums in another order, as a share of the largest action so far, or of 1: in
blocks, so it is up to four times nearer to the result in double precision. Rounding grows with the numbers that are summed, and a small
action may be the difference of large ones. Over 120 steps, for observations of standard deviations from 1 to 1000, ANNs of 64-64 to
1024-512-256, GRU, LSTM and reservoirs are off by 4.3e-6 at most."""


class C(Target):
    """One C99 file and its header, for microcontrollers and whatever else has a C compiler."""

    relative = True
    compiled = True
    in_c = True
    changed = "whose convolutions sum in the file's order"

    @override
    def get_tolerance(self, model: MLPModel) -> float:
        """Tolerance: 0 for spiking networks; for an ANN's layers and a reservoir's readout `OTHER_ORDER`."""
        from spiky_rl.learners.rsl_rl.model import SpikingModel

        return 0.0 if isinstance(model, SpikingModel) and model.network.features is None else OTHER_ORDER

    @override
    def get_reference_model(self, model: MLPModel) -> MLPModel:
        from spiky_rl.connections.convolutional import Convolutional
        from spiky_rl.deploy._int8_network import with_network
        from spiky_rl.kernels import dispatch
        from spiky_rl.learners.rsl_rl.model import SpikingModel

        if not isinstance(model, SpikingModel) or not any(
            isinstance(part, Convolutional) and part.summed_by_torch for part in model.network.modules()
        ):
            return model
        network = copy.deepcopy(model.network).to("cpu")
        network.set_backend(dispatch.list_compiled_backends()["cpu"])
        for part in network.modules():
            if isinstance(part, Convolutional):
                part.in_order = part.summed_by_torch
        return with_network(model, network)

    @override
    def check_requirements(self) -> None:
        require_compiler("c")

    @override
    def check_network(self, agent: PlainMapping) -> None:
        super().check_network(agent)
        actor = get_section(agent, "actor")
        is_ann = not agent.get("network")  # else a spiking model stands in the place of Isaac Lab's
        if is_ann and strip_module(str(actor.get("class_name"))) == "CNNModel":
            raise self.refusal("actor.class_name", "CNNModel", ["MLPModel", "RNNModel"])

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.deploy._ann import AnnStep
        from spiky_rl.deploy._c_text import write_policy
        from spiky_rl.deploy._reader import read_program
        from spiky_rl.learners.rsl_rl.export import make_metadata
        from spiky_rl.learners.rsl_rl.model import SpikingModel

        wrapped: Any = model.as_onnx(verbose=False).to("cpu").eval()
        if not isinstance(model, SpikingModel):
            wrapped = AnnStep(wrapped)
        example = wrapped.get_dummy_inputs()
        step = read_program(
            wrapped, ("observation", "state")[: len(example)], ("action", "next")[: len(example)], example
        )
        return write_policy(
            step, folder, make_metadata(model, {}, {}, [], "", "")["usage"], get_vector_width()
        )

    @override
    def open_session(self, path: Path) -> Session:
        return open_c_session(path, read_sizes(path)["FLOATS"])


def read_sizes(path: Path) -> dict[str, int]:
    """Sizes by name, as the header beside ``path``, a policy.c, declares them."""
    text = path.with_suffix(".h").read_text(encoding="utf-8")
    return {name: int(size) for name, size in re.findall(r"POLICY_(\w+) = (\d+)", text)}


FLAGS = ("-O3", "-march=native")
"""Flags that a policy is compiled with for its proof."""


def open_c_session(path: Path, state: int, flags: tuple[str, ...] = FLAGS) -> Session:
    """Return a session that runs the policy in C in the file ``path``.

    Args:
        path: A policy.c.
        state: Floats that its struct is as large as.
        flags: Those of the compiler.
    """
    library, told = load_policy_library(path, flags), read_sizes(path)
    held, observation, action = (
        np.zeros(size, np.float32) for size in (state, told["OBSERVATIONS"], told["ACTIONS"])
    )
    pointers = [
        numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for numbers in (held, observation, action)
    ]
    library.policy_reset(pointers[0])
    call = library.policy_step

    def step(x: np.ndarray, _state: list[np.ndarray]) -> list[np.ndarray]:
        observation[:] = x.reshape(-1)
        call(*pointers)
        return [action[None].copy()]

    return step


def find_compiler() -> list[str]:
    """The C compiler: what CC says, else cc, gcc or clang; empty: there is none."""
    words = shlex.split(os.environ.get("CC", "")) or [
        next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
    ]
    return words if shutil.which(words[0]) else []


def require_compiler(target: str) -> None:
    """Raise UserError where there is no C compiler to prove a ``target`` with."""
    if not find_compiler():
        raise UserError(
            f"--to {target}: there is no C compiler (cc) for the proof; install one, or name it in CC"
        )


def get_vector_width() -> int:
    """Floats in a vector of the `cpu` backend, which decides what it fuses."""
    told = subprocess.run(
        [*find_compiler(), "-march=native", "-dM", "-E", "-x", "c", "-"],
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    return 16 if "__AVX512F__" in told.stdout else 8 if "__AVX__" in told.stdout else 4


def load_policy_library(path: Path, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """Compile the policy.c in ``path``, with these ``flags``, into a library of this process.

    Raises UserError with what the compiler says where it refuses the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "policy.so"
        line = [*find_compiler(), *STANDARD, *flags, "-shared", "-fPIC", "-o", str(library), str(path), "-lm"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{path}: the compiler refuses it: {done.stderr.strip().splitlines()[0]}")
        return ctypes.CDLL(str(library))
