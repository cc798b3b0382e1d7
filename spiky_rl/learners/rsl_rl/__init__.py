"""rsl_rl as a learner, and the classes that its configuration names.

``class_name: spiky_rl.learners.rsl_rl:SpikingModel`` makes a spiking actor or critic. ``...:SpikingPPO`` is rsl_rl's PPO with
separate learning rates for critic and action noise, a minimum adaptive learning rate, and burn-in. ``...:DistillingPPO`` runs
rsl_rl's distillation of a teacher before `SpikingPPO`.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.categorical import CategoricalDistribution
    from spiky_rl.learners.rsl_rl.distillation import DistillingPPO
    from spiky_rl.learners.rsl_rl.model import BurnInMLPModel, SpikingModel
    from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO as SpikingPPO

__all__ = ["BurnInMLPModel", "CategoricalDistribution", "DistillingPPO", "SpikingModel", "SpikingPPO"]

PLACES = {
    "BurnInMLPModel": "model:BurnInMLPModel",
    "CategoricalDistribution": "categorical:CategoricalDistribution",
    "DistillingPPO": "distillation:DistillingPPO",
    "SpikingModel": "model:SpikingModel",
    "SpikingPPO": "ppo:RslRlSpikingPPO",
}
"""Module and class of every public name, imported on first access, so that this package does not import rsl_rl."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{PLACES[name]}")
