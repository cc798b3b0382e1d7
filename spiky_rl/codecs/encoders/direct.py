"""Direct: the observation itself; the first connection turns it into a current, once per control step.

The current is constant over the inner steps, so the first layer needs one dense product per control step instead of K.
Source: Rueckauer et al. (2017), analog input; van den Berghe et al. (2025) reach parity with an ANN on a drone with it.
"""

from typing import override

from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder


class Direct(Encoder):
    """[T, B, O] -> [T, 1, B, O]."""

    topographic = True

    def __init__(self, inputs: int, steps: int) -> None:  # pylint: disable=unused-argument
        super().__init__()
        self.width = inputs

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)
