"""Categorical distribution of discrete actions for rsl_rl's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import override

import torch
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class CategoricalDistribution(Distribution):
    """Independent choices of an action's components; the model's output is the logits [..., A] of all choices of all components.

    A sample is a vector [..., A] with a 1 at the choice of each component, because rsl_rl stores actions as vectors. The deterministic
    output is the logits, whose largest value of a component is its most probable choice.
    """

    actions_text = "Actions are one number per choice; the largest one is chosen."
    """Usage of the deterministic output, for exported files."""

    def __init__(self, output_dim: int, choices: Sequence[int] = ()) -> None:
        """Initialise for ``output_dim`` numbers; ``choices``: number of choices of each component, by default of a single one."""
        super().__init__(output_dim)
        self.choices = list(choices) or [output_dim]
        if len(self.choices) > 1:
            groups = ", ".join(map(str, self.choices))
            self.actions_text = f"Actions are one number per choice, in groups of {groups}; the largest one of a group is chosen."
        self.logits: Tensor | None = None
        """Logarithms of the probabilities, [..., A]."""

    @override
    def update(self, mlp_output: Tensor) -> None:
        parts = mlp_output.split(self.choices, dim=-1)
        self.logits = torch.cat([part.log_softmax(dim=-1) for part in parts], dim=-1)

    @override
    def sample(self) -> Tensor:
        return torch.cat(
            [_draw_one_hot(part) for part in self._log_probabilities.exp().split(self.choices, dim=-1)],
            dim=-1,
        )

    @override
    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        return mlp_output

    @override
    def as_deterministic_output_module(self) -> nn.Module:
        return nn.Identity()

    @property
    def input_dim(self) -> int:
        """Number of logits."""
        return self.output_dim

    @property
    def mean(self) -> Tensor:
        """Probabilities of the choices, [..., A]."""
        return self._log_probabilities.exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation of each number of a sample, [..., A]."""
        probabilities = self._log_probabilities.exp()
        return (probabilities * (1.0 - probabilities)).clamp(min=0.0).sqrt()

    @property
    def entropy(self) -> Tensor:
        """Entropy in nats, [...]."""
        return -(self._log_probabilities.exp() * self._log_probabilities).sum(dim=-1)

    @property
    def params(self) -> tuple[Tensor, ...]:
        """Logarithms of the probabilities."""
        return (self._log_probabilities,)

    @override
    def log_prob(self, outputs: Tensor) -> Tensor:
        return (self._log_probabilities * outputs).sum(dim=-1)

    @override
    def kl_divergence(self, old_params: tuple[Tensor, ...], new_params: tuple[Tensor, ...]) -> Tensor:
        (old,), (new,) = old_params, new_params
        return (old.exp() * (old - new)).sum(dim=-1)

    @property
    def _log_probabilities(self) -> Tensor:
        assert self.logits is not None, "call update first"
        return self.logits


def _draw_one_hot(probabilities: Tensor) -> Tensor:
    """Return one-hot samples for ``probabilities`` [..., N]."""
    chosen = torch.multinomial(probabilities.reshape(-1, probabilities.shape[-1]), 1)
    return torch.zeros_like(probabilities).scatter_(-1, chosen.view(*probabilities.shape[:-1], 1), 1.0)
