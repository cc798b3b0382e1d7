"""Categorical distribution of discrete actions for rsl_rl's models."""

from __future__ import annotations

from typing import override

import torch
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class CategoricalDistribution(Distribution):
    """Choice among A actions; the model's output is their logits [..., A].

    A sample is a one-hot vector [..., A], because rsl_rl stores actions as vectors. The deterministic output is the logits, whose
    largest component is the most probable action.
    """

    actions_text = "Actions are one number per choice; the largest one is chosen."
    """Usage of the deterministic output, for exported files."""

    def __init__(self, output_dim: int) -> None:
        """Initialise for ``output_dim`` actions."""
        super().__init__(output_dim)
        self.logits: Tensor | None = None
        """Logarithms of the probabilities, [..., A]."""

    @override
    def update(self, mlp_output: Tensor) -> None:
        self.logits = mlp_output.log_softmax(dim=-1)

    @override
    def sample(self) -> Tensor:
        probabilities = self._log_probabilities.exp()
        chosen = torch.multinomial(probabilities.reshape(-1, self.output_dim), 1)
        return torch.zeros_like(probabilities).scatter_(-1, chosen.view(*probabilities.shape[:-1], 1), 1.0)

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
        """Probabilities of the actions, [..., A]."""
        return self._log_probabilities.exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation of each component of a one-hot sample, [..., A]."""
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
