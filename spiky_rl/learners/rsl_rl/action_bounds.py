"""Actions in a task's own units: policies of tasks with bounded actions act in [-1, 1], which their host maps to the bounds."""

from __future__ import annotations

import copy
from typing import Any, override

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class ActionBounds(nn.Module):
    """Mapping of actions [..., A], clipped to [-1, 1], to their bounds; a component without bounds stays as it is."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        """Initialise with the smallest and largest action, [A] each."""
        super().__init__()
        bounded = low.isfinite() & high.isfinite()
        self.register_buffer("middle", torch.where(bounded, (low + high) / 2.0, 0.0))
        self.register_buffer("scale", torch.where(bounded, (high - low) / 2.0, 1.0))
        self.register_buffer("limit", torch.where(bounded, 1.0, torch.inf))
        self.middle: Tensor
        self.scale: Tensor
        self.limit: Tensor

    def forward(self, actions: Tensor) -> Tensor:
        """Return actions in the task's units."""
        return self.middle + self.scale * torch.minimum(torch.maximum(actions, -self.limit), self.limit)


class BoundedDistribution(Distribution):
    """Distribution whose deterministic output is in the task's units; it is for inference only."""

    actions_text = "Actions are the mean of the policy in the task's units, within the task's bounds."
    """Usage of the deterministic output, for exported files."""

    def __init__(self, distribution: Distribution | None, outputs: int, bounds: ActionBounds) -> None:
        """Wrap a model's ``distribution``, or its plain output if it has none."""
        super().__init__(outputs)
        self.inner, self.bounds = distribution, bounds

    @property
    def input_dim(self) -> int | list[int]:
        """Width of the model's output."""
        return self.output_dim if self.inner is None else self.inner.input_dim

    @override
    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        return self.bounds(mlp_output if self.inner is None else self.inner.deterministic_output(mlp_output))

    @override
    def as_deterministic_output_module(self) -> nn.Module:
        first = nn.Identity() if self.inner is None else self.inner.as_deterministic_output_module()
        return nn.Sequential(first, self.bounds)


def bound_actions(model: Any, low: Tensor, high: Tensor) -> MLPModel:
    """Return a copy of ``model``, with the same weights, that acts in the units of the bounds ``low`` and ``high``, [A] each."""
    changed = copy.copy(model)
    changed._modules = dict(model._modules)  # pylint: disable=protected-access  # of the copy
    changed.distribution = BoundedDistribution(model.distribution, len(low), ActionBounds(low, high))
    return changed
