"""Reinforcement learning with spiking neural networks, as a plugin for Gymnasium and Isaac Lab.

``spiky_rl.network`` and ``spiky_rl.layer`` of `spiky_rl.api` build torch modules, and ``spiky_rl.load_policy`` loads a trained policy as one.
Importing this package does not import torch, but the first use of one of these names does.
"""

# pylint: disable=useless-import-alias  # for type checkers, such an import is public

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spiky_rl.api import LayerModule as LayerModule
    from spiky_rl.api import NetworkModule as NetworkModule
    from spiky_rl.api import SpikingModule as SpikingModule
    from spiky_rl.api import layer as layer
    from spiky_rl.api import network as network
    from spiky_rl.networks.base import State as State
    from spiky_rl.run.trained_policy import PolicyModule as PolicyModule
    from spiky_rl.run.trained_policy import load_policy as load_policy

__version__ = "0.1.0"
_API, _TRAINED_POLICY = "spiky_rl.api", "spiky_rl.run.trained_policy"
API_NAMES = {
    **dict.fromkeys(("LayerModule", "NetworkModule", "SpikingModule", "State", "layer", "network"), _API),
    **dict.fromkeys(("PolicyModule", "load_policy"), _TRAINED_POLICY),
}
"""Names that this package offers -> their modules. Not ``__all__``, which would hide the packages below from the API's pages."""


def __getattr__(name: str) -> object:
    """Return a name of the Python API (PEP 562)."""
    if name not in API_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(API_NAMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *API_NAMES})
