"""Actions in a task's own units: policies act in units of their own, which a host or its action terms map to the task's."""

from __future__ import annotations

import copy
from typing import Any, override

from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class ConvertedDistribution(Distribution):
    """Distribution whose deterministic output is in the task's units; it is for inference only."""

    actions_text = "Actions are the mean of the policy in the task's units, within the task's bounds."
    """Sentence on the actions for the header of an exported file."""

    def __init__(self, distribution: Distribution | None, outputs: int, to_task_units: nn.Module) -> None:
        """Wrap a model's ``distribution``, or None if its plain output is the action; ``outputs``: number of actions, A.

        ``to_task_units`` maps actions [..., A] to the task's units [..., A]; it may have its own ``actions_text``.
        """
        super().__init__(outputs)
        self.inner, self.to_task_units = distribution, to_task_units
        self.actions_text = getattr(to_task_units, "actions_text", self.actions_text)

    @property
    def input_dim(self) -> int | list[int]:
        """Width of the model's output."""
        return self.output_dim if self.inner is None else self.inner.input_dim

    @override
    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        actions = mlp_output if self.inner is None else self.inner.deterministic_output(mlp_output)
        return self.to_task_units(actions)

    @override
    def as_deterministic_output_module(self) -> nn.Module:
        first = nn.Identity() if self.inner is None else self.inner.as_deterministic_output_module()
        return nn.Sequential(first, self.to_task_units)


def convert_actions(model: Any, to_task_units: nn.Module, outputs: int) -> MLPModel:
    """Return a shallow copy of ``model``, with the same weights, whose deterministic actions are in the task's units.

    The arguments are those of `ConvertedDistribution`.
    """
    converted = copy.copy(model)
    converted._modules = dict(model._modules)  # pylint: disable=protected-access  # of the copy
    converted.distribution = ConvertedDistribution(model.distribution, outputs, to_task_units)
    return converted
