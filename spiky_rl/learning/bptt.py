"""Backpropagation through time: the exact gradient except for the derivative of a spike, which is the surrogate's.

    dL/dw = sum_t dL/dV_t dV_t/dw,   dz/dV := the surrogate's derivative,   back over inner steps and, in a stateful network,
    over the control steps of the rollout

``truncate: n`` cuts the gradient after every n control steps, which saves memory and limits credit; states are still carried on.

Source: Neftci, Mostafa & Zenke (2019); truncation: Williams & Peng (1990).
"""

from spiky_rl.config.options import Settings, option
from spiky_rl.learning.base import LearningRule


class Bptt(LearningRule):
    """Backpropagation through time with surrogate gradients."""

    class Options(Settings):
        truncate: int = option(
            0, "control steps after which the gradient of a replayed rollout is cut; 0: never", low=0
        )

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.truncate = options.truncate
