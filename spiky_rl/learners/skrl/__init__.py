"""skrl as a host: the models that our configuration of its runner names, and the agents that it makes of them.

``class: spiky_rl.learners.skrl:SpikingPolicy`` makes a policy, ``...:SpikingValue`` a value function, either of a spiking
network or of an ANN. Runner, agents, models and environment wrapper are subclasses of skrl's.
"""

from spiky_rl.learners.skrl.models import SpikingPolicy, SpikingValue
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO

SpikingPPO = SkrlSpikingPPO
"""The name in configurations."""
__all__ = ["SkrlSpikingPPO", "SpikingPPO", "SpikingPolicy", "SpikingRecurrentPPO", "SpikingValue"]
