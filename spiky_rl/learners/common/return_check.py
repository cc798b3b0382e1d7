"""A warning for returns that nothing can earn: simulation or policy have exploded, though no number has become infinite."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_RETURN = 1e12
"""Mean return beyond which a training is warned of: a critic begins near zero and learns steps of its learning rate. Isaac Lab's
tasks stay below 1e5."""
UNKNOWN = (
    "the simulation or the policy has exploded; lower agent.algorithm.learning_rate or set agent.clip_actions, and look for a"
    " reward term without a bound"
)


class ReturnExplosionCheck:
    """Call it with every iteration's mean return of one training; it warns once."""

    def __init__(self) -> None:
        self.is_warned = False

    def __call__(self, index: int, mean_return: float, blow_up: Callable[[], str] = str) -> None:
        """Look at the returns of an iteration.

        Args:
            index: Index of the iteration.
            mean_return: That of its episodes; NaN, before the first episode ends, is none.
            blow_up: Gives a phrase that names the simulation's settings where it has blown up; else "".
        """
        if abs(mean_return) > MAX_RETURN and not self.is_warned:
            self.is_warned = True
            log.warning(
                "iteration %d: the mean return is %.3g, which no critic can learn: %s",
                *(index, mean_return, blow_up() or UNKNOWN),
            )
