"""skrl as a learner, and the classes that our configuration of its runner names.

``class: spiky_rl.learners.skrl:SpikingPolicy`` makes a policy and ``...:SpikingValue`` a value function, each with a spiking
network or an ANN. Runner, agents, models and environment wrapper are subclasses of skrl's.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiky_rl.learners.skrl.models import CategoricalPolicy, SpikingPolicy, SpikingValue
    from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO as SpikingPPO
    from spiky_rl.learners.skrl.ppo import SpikingRecurrentPPO

__all__ = ["CategoricalPolicy", "SpikingPPO", "SpikingPolicy", "SpikingRecurrentPPO", "SpikingValue"]

PLACES = {
    "CategoricalPolicy": "models:CategoricalPolicy",
    "SpikingPPO": "ppo:SkrlSpikingPPO",
    "SpikingPolicy": "models:SpikingPolicy",
    "SpikingRecurrentPPO": "ppo:SpikingRecurrentPPO",
    "SpikingValue": "models:SpikingValue",
}
"""Module and class of every public name, imported on first access, so that this package does not import skrl."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{PLACES[name]}")
