"""Engines that run cells on this machine or on the machines of a cluster."""

from __future__ import annotations

import importlib.util

from spiky_rl.config.errors import format_install_command
from spiky_rl.experiments.run.engines.base import Engine, EngineError


def create(name: str, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> Engine:
    """Return the engine ``name``, local or ray, for cells of so many cores and GPUs. Raises EngineError with the install command if it is missing."""
    if name == "local":
        from spiky_rl.experiments.run.engines.local import LocalEngine

        return LocalEngine()
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            f"--engine {name}: ray is not installed; install it {format_install_command('.[ray]')}"
        )
    from spiky_rl.experiments.run.engines.ray import RayEngine

    return RayEngine(address, cpus, gpus)
