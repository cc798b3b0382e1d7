"""``policy.c`` and ``policy.h``: a trained policy in C99, without libraries, allocation or global state.

The caller owns one struct. A spike adds a row of weights. Sums have the order of the `cpu` backend and, if the hardware has
them, its fused multiply-adds, so the actions are bit-equal to the live policy's. Exception: convolutions that torch sums, in an
order that depends on CPU, batch and threads. Then the file is bit-equal to the same policy with the backend's convolution kernels.
Decoders that sum floats over many inner steps are torch's too: their actions are equal within `SUM_ORDER_TOLERANCE`.
"""

from __future__ import annotations

import copy
import ctypes
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import numpy as np

from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.deploy.base import ANN_CLASSES, Session, Target
from spiky_rl.kernels.compiler import find_command

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel
    from spiky_rl.networks.base import SpikingNetwork

STANDARD = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion")
"""Flags under which the file compiles without a warning."""

SUM_ORDER_TOLERANCE = 1e-5
"""Tolerance if torch sums in another order, as a share of the largest action so far, or of 1. torch sums in blocks, so its result is
up to four times nearer to that in double precision. Rounding errors grow with the summands, and a small action may be the difference
of large ones. Largest measured error: 4.3e-6, over 120 steps, for observations with standard deviations of 1 to 1000, ANNs of 64-64
to 1024-512-256, GRU, LSTM and reservoirs."""
MAX_SEQUENTIAL_SUMMANDS = 4
"""Largest number of summands that torch adds one after the other: of more it makes four sums side by side."""
TANH_TOLERANCE = 2.5e-7
"""Tolerance if the action is a tanh, in the same shares: torch's and the C library's differ by one unit in the last place, for 0.06 %
of 200,000 normal arguments."""


ENCODERS = ("concat", "delta", "direct", "latency", "population", "rate", "sigma_delta")
"""Encoders with a form in C."""
DECODERS = ("first_spike", "linear", "membrane", "population_vector", "rate", "sigma_delta")
"""Decoders with a form in C."""


class C(Target):
    """One C99 file and its header, for microcontrollers and whatever else has a C compiler."""

    supported = {
        "network.name": ("feedforward", "nir", "reservoir"),
        "network.encoder.name": ENCODERS,
        "network.connection.name": ("convolutional", "linear"),
        "network.decoder.name": DECODERS,
        "actor.distribution_cfg.class_name": (
            "BetaDistribution",
            "CategoricalDistribution",
            "GaussianDistribution",
            "HeteroscedasticGaussianDistribution",
            "TanhDistribution",
        ),
    }
    maps_actions = gives_commands = True
    has_relative_tolerance = True
    needs_cpu_backend = True
    is_c = True
    reference_text = "whose convolutions sum in the file's order"

    @override
    def get_tolerance(self, model: MLPModel) -> float:
        """Return 0 for a spiking network whose actions are its features, else a tolerance for the operations that torch rounds differently."""
        from spiky_rl.learners.rsl_rl.model import SpikingModel
        from spiky_rl.networks.reservoir import Reservoir

        if (
            not isinstance(model, SpikingModel)
            or isinstance(model.network, Reservoir)
            or _decodes_by_sums_of_torch(model.network)
        ):
            return SUM_ORDER_TOLERANCE
        distribution = getattr(model.distribution, "inner", model.distribution)
        tolerances = {"BetaDistribution": SUM_ORDER_TOLERANCE, "TanhDistribution": TANH_TOLERANCE}
        return tolerances.get(type(distribution).__name__, 0.0)

    @override
    def get_reference_model(self, model: MLPModel) -> MLPModel:
        from spiky_rl.connections.convolutional import Convolutional
        from spiky_rl.deploy._int8_network import replace_network
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
        return replace_network(model, network)

    @override
    def check_requirements(self) -> None:
        require_compiler("c")

    @override
    def check_network(self, agent: PlainMapping) -> None:
        if agent.get("network"):  # a network replaces the actor's class
            super().check_network(agent)
        else:
            path = "actor.distribution_cfg.class_name"
            self.check_values(agent, {"actor.class_name": ANN_CLASSES, path: self.supported[path]})

    @override
    def write(self, model: MLPModel, folder: Path) -> Path:
        from spiky_rl.deploy._c_text import write_policy

        return write_policy(self, model, folder, get_vector_width())

    @override
    def open_session(self, path: Path) -> Session:
        return open_c_session(path)


def _decodes_by_sums_of_torch(network: SpikingNetwork) -> bool:
    """Return whether the decoder of a feed-forward ``network`` sums floats over the inner steps in an order of torch's own."""
    from spiky_rl.codecs.decoders.linear import LinearDecoder
    from spiky_rl.codecs.decoders.membrane import Membrane

    parts: Any = network
    if network.steps <= MAX_SEQUENTIAL_SUMMANDS:
        return False
    if isinstance(parts.decoder, Membrane):
        return parts.decoder.which == "mean"
    # sums of spikes are whole numbers, which every order gives
    return parts.layers[-1].neuron.graded and not isinstance(parts.decoder, LinearDecoder)


def read_sizes(path: Path) -> dict[str, int]:
    """Return the sizes that the header of ``path``, a policy.c, declares, by name without the policy's name."""
    text = path.with_suffix(".h").read_text(encoding="utf-8")
    sizes = re.findall(rf"\b{path.stem.upper()}_(\w+) = (\d+)", text)
    return {name: int(size) for name, size in sizes}


FLAGS = ("-O3", "-march=native")
"""Compiler flags of the verification."""


def open_c_session(path: Path, flags: tuple[str, ...] = FLAGS) -> Session:
    """Return a session that runs a policy in C; ``path``: its source, beside its header."""
    library, sizes = load_policy_library(path, flags), read_sizes(path)
    memory, observation, action = (
        np.zeros(size, np.float32) for size in (sizes["BYTES"] // 4, sizes["OBSERVATIONS"], sizes["ACTIONS"])
    )
    pointers = [
        numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for numbers in (memory, observation, action)
    ]
    getattr(library, f"{path.stem}_reset")(pointers[0])
    call = getattr(library, f"{path.stem}_step")

    def step(x: np.ndarray, _state: list[np.ndarray]) -> list[np.ndarray]:
        observation[:] = x.reshape(-1)
        call(*pointers)
        return [action[None].copy()]

    return step


def find_compiler() -> Sequence[str]:
    """Return the command of the C compiler: CC, or else cc, gcc or clang; empty if none is installed."""
    return find_command("CC", "cc", "gcc", "clang") or ()


def require_compiler(target: str) -> None:
    """Raise UserError, with the name of ``target``, if there is no C compiler for this machine."""
    if not find_compiler():
        raise UserError(
            f"--to {target}: no C compiler (cc) for the verification; install one, or set CC to its command"
        )
    get_vector_width()


def run_compiler(command: list[str], task: str, cwd: Path | None = None) -> str:
    """Run a ``command`` of a compiler in the folder ``cwd`` and return its output. Raises UserError, with the ``task``, if it fails."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{task} failed: {next((line for line in lines if 'error:' in line), lines[0])}")
    return done.stdout


def get_vector_width() -> int:
    """Return the number of floats in a vector of the `cpu` backend on this machine. Raises UserError if the compiler is for another machine."""
    line = [*find_compiler(), "-march=native", "-dM", "-E", "-x", "c", "-"]
    macros = run_compiler(line, f"verification: {line[0]} -march=native")
    return 16 if "__AVX512F__" in macros else 8 if "__AVX__" in macros else 4


def load_policy_library(path: Path, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """Compile ``path``, a policy.c, and load it. Raises UserError with the compiler's message if compiling fails."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "policy.so"
        line = [*find_compiler(), *STANDARD, *flags, "-shared", "-fPIC", "-o", str(library), str(path), "-lm"]
        run_compiler(line, f"{path}: compiling")
        return ctypes.CDLL(str(library))
