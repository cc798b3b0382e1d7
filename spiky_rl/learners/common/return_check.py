"""Warning for impossibly large returns: simulation or policy have exploded, although all numbers are finite."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_RETURN = 1e12
"""Maximum mean return without a warning. A critic starts near zero and moves in steps of its learning rate; Isaac Lab's tasks stay
below 1e5."""
UNKNOWN = (
    "the simulation or the policy has exploded; lower agent.algorithm.learning_rate or set agent.clip_actions, and check for an"
    " unbounded reward term"
)


class ReturnExplosionCheck:
    """Check to call with the mean return of every iteration of a training; it warns once."""

    def __init__(self) -> None:
        self.is_warned = False

    def __call__(self, index: int, mean_return: float, describe_blow_up: Callable[[], str] = str) -> None:
        """Check the mean return of iteration ``index``, which is NaN before the first episode ends.

        ``describe_blow_up`` returns a phrase with the simulation's settings if the simulation has blown up, else "".
        """
        if abs(mean_return) > MAX_RETURN and not self.is_warned:
            self.is_warned = True
            log.warning(
                "iteration %d: the mean return is %.3g, too large for a critic to learn: %s",
                index,
                mean_return,
                describe_blow_up() or UNKNOWN,
            )
