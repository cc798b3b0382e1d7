"""A control step of an rsl_rl ANN, with the inputs and outputs of a spiking network's export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spiky_rl.learners.common.inference_policy import clamp_observations, reset_nonfinite


class AnnStep(nn.Module):
    """A control step with clamped observations and, if the ANN is recurrent, one flat state [1, S]."""

    def __init__(self, core: nn.Module) -> None:
        """Wrap ``core``, the control step that rsl_rl exports."""
        super().__init__()
        self.core: Any = core
        first, *states = self.core.get_dummy_inputs()
        self.shapes = [state.shape for state in states]
        self.example = first, *([torch.zeros(1, sum(s.numel() for s in states))] if states else [])
        self.core.obs_normalizer.register_forward_hook(
            lambda module, inputs, output: clamp_observations(output)
        )

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        """Return zeros in the shapes of the inputs."""
        return self.example

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the action for an observation ``x`` [1, O], and the new state if ``state`` is given."""
        if state is None:
            return self.core(x)
        parts = state.split([shape.numel() for shape in self.shapes], -1)
        action, *after = self.core(x, *(s.view(shape) for s, shape in zip(parts, self.shapes, strict=True)))
        # a GRU returns None in the place of an LSTM's cell state
        held = reset_nonfinite(tuple(s for s in after if s is not None))
        return action, torch.cat([s.view(1, -1) for s in held], -1)
