"""What runs cells: on this machine, or on the machines of a cluster."""

from __future__ import annotations

import importlib.util
from typing import Any

from spiky_rl.experiments.run.engines.base import Engine, EngineError


def create(name: str, **options: Any) -> Engine:
    """The engine of that name. Raises EngineError with the install line where it is not there."""
    if name == "local":
        from spiky_rl.experiments.run.engines.local import LocalEngine

        return LocalEngine()
    if importlib.util.find_spec("ray") is None:
        raise EngineError(f"--engine {name}: ray is missing; pip install 'spiky-rl[ray]'")
    from spiky_rl.experiments.run.engines.ray import RayEngine

    return RayEngine(**options)
