"""Actions in a task's own units: policies act in units of their own, which a host or its action terms map to the task's."""

from __future__ import annotations

import copy
from typing import Any, override

from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class BoundedDistribution(Distribution):
    """Distribution whose deterministic output is in the task's units; it is for inference only."""

    actions_text = "Actions are the mean of the policy in the task's units, within the task's bounds."
    """Usage of the deterministic output, for exported files."""

    def __init__(self, distribution: Distribution | None, outputs: int, bounds: nn.Module) -> None:
        """Wrap a model's ``distribution``, or its plain output if it has none; ``bounds`` maps its actions [..., A].

        ``bounds`` may have a text of its own for `actions_text`.
        """
        super().__init__(outputs)
        self.inner, self.bounds = distribution, bounds
        self.actions_text = getattr(bounds, "actions_text", self.actions_text)

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


def bound_actions(model: Any, bounds: nn.Module, outputs: int) -> MLPModel:
    """Return a copy of ``model``, with the same weights, whose A = ``outputs`` actions are mapped by ``bounds``, [..., A] to [..., A]."""
    changed = copy.copy(model)
    changed._modules = dict(model._modules)  # pylint: disable=protected-access  # of the copy
    changed.distribution = BoundedDistribution(model.distribution, outputs, bounds)
    return changed
