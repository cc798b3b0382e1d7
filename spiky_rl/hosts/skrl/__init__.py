"""The former place of `spiky_rl.learners.skrl`, which saved configurations name."""

from spiky_rl.learners.skrl import SpikingPolicy, SpikingPPO, SpikingRecurrentPPO, SpikingValue

__all__ = ["SpikingPPO", "SpikingPolicy", "SpikingRecurrentPPO", "SpikingValue"]
