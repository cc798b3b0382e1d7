"""The former place of `spiky_rl.learners.rsl_rl`, which saved configurations name."""

from spiky_rl.learners.rsl_rl import BurnInMLPModel, DistillingPPO, SpikingModel, SpikingPPO

__all__ = ["BurnInMLPModel", "DistillingPPO", "SpikingModel", "SpikingPPO"]
