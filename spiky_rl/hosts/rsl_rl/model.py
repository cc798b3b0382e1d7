"""The former place of `spiky_rl.learners.rsl_rl.model`, which saved configurations name."""

from spiky_rl.learners.rsl_rl.model import BurnInMLPModel, SpikingModel

__all__ = ["BurnInMLPModel", "SpikingModel"]
