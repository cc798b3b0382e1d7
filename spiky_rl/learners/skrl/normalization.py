"""Observation normalisation of skrl's agents, for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from spiky_rl.learners.skrl.models import SequenceModel


class NormalizingAgent:
    """Mixin that gives inference policies the observation normalisation of a skrl agent."""

    policy: SequenceModel
    _observation_preprocessor: Callable[[Tensor], Tensor]

    def normalize_observations(self, observations: Tensor) -> Tensor:
        """Return normalised ``observations`` [..., O], as input of the policy."""
        return self._observation_preprocessor(observations)

    def copy_normalisation(self) -> Callable[[Tensor], Tensor]:
        """Return a copy of the observation normalisation, which later training does not change."""
        normalise = self._observation_preprocessor
        return copy.deepcopy(normalise) if isinstance(normalise, nn.Module) else normalise
