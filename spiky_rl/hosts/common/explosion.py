"""A warning for returns that nothing can earn: simulation or policy have exploded, though no number has become infinite."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

LARGEST = 1e12
"""Mean return beyond which a training is warned of: a critic begins near zero and learns steps of its learning rate. Isaac Lab's
tasks stay below 1e5."""


class ReturnWatch:
    """Call it with every iteration's mean return of one training; it warns once."""

    def __init__(self) -> None:
        self.is_warned = False

    def __call__(self, index: int, mean_return: float) -> None:
        """Look at ``mean_return``, that of iteration ``index``; NaN, before the first episode ends, is none."""
        if abs(mean_return) > LARGEST and not self.is_warned:
            self.is_warned = True
            log.warning(
                "iteration %d: the mean return is %.3g, which no critic can learn: the simulation or the policy has exploded; lower"
                " agent.algorithm.learning_rate or set agent.clip_actions, and look for a reward term without a bound",
                *(index, mean_return),
            )
