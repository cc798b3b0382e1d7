"""Reinforcement learning with spiking neural networks, as a plugin for Gymnasium and Isaac Lab.

`network` and `layer` build torch modules; this package imports torch when one of its names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spiky_rl.api import LayerModule, NetworkModule, SpikingModule, layer, network
    from spiky_rl.networks.base import State

__all__ = ["LayerModule", "NetworkModule", "SpikingModule", "State", "layer", "network"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Return a name of the Python API (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spiky_rl import api

    value = globals()[name] = getattr(api, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
