"""Reinforcement learning with spiking neural networks, as a plugin for Gymnasium and Isaac Lab.

`spiky_rl.api` has the torch modules that this package offers: ``spiky_rl.network`` and ``spiky_rl.layer`` build them. It imports
torch when one of its names is first used.
"""

# pylint: disable=useless-import-alias  # for type checkers, such an import is public

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spiky_rl.api import LayerModule as LayerModule
    from spiky_rl.api import NetworkModule as NetworkModule
    from spiky_rl.api import SpikingModule as SpikingModule
    from spiky_rl.api import layer as layer
    from spiky_rl.api import network as network
    from spiky_rl.networks.base import State as State

__version__ = "0.1.0"
API_NAMES = ("LayerModule", "NetworkModule", "SpikingModule", "State", "layer", "network")
"""Names of `spiky_rl.api` that this package offers. Not ``__all__``, which would hide the packages below from the API's pages."""


def __getattr__(name: str) -> object:
    """Return a name of the Python API (PEP 562)."""
    if name not in API_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spiky_rl import api

    value = globals()[name] = getattr(api, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *API_NAMES})
