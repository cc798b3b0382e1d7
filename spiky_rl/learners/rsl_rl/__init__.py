"""rsl_rl as a host: the classes that its configuration names.

``class_name: spiky_rl.learners.rsl_rl:SpikingModel`` makes a spiking actor or critic, ``...:SpikingPPO`` the algorithm
beside it (rsl_rl's PPO with a learning rate for what does not spike, a floor under the adaptive one, and burn-in),
``...:DistillingPPO`` that algorithm behind rsl_rl's distillation of a teacher.
"""

from spiky_rl.learners.rsl_rl.distillation import DistillingPPO
from spiky_rl.learners.rsl_rl.model import BurnInMLPModel, SpikingModel
from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO

SpikingPPO = RslRlSpikingPPO
"""The name in configurations."""
__all__ = ["BurnInMLPModel", "DistillingPPO", "RslRlSpikingPPO", "SpikingModel", "SpikingPPO"]
