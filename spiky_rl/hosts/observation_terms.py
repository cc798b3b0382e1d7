"""Observations of simulators with Isaac Lab's managers, term by term."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tensordict import TensorDict
from torch import Tensor

type Leaves = Mapping[str | tuple[str, ...], Tensor]
"""Observations by their nested names, [B, ...] each."""


def get_leaves(observations: TensorDict) -> Leaves:
    """Return the tensors of ``observations`` by nested name."""
    return dict(observations.items(include_nested=True, leaves_only=True))  # type: ignore[arg-type]


def iterate_terms(env: Any, leaves: Leaves) -> Iterator[tuple[str, Tensor]]:
    """Yield the terms of all observations ``leaves`` by name; a group is yielded whole if its terms are not joined in one vector.

    ``env`` is the simulator's own environment without wrappers.
    """
    manager = getattr(env, "observation_manager", None)
    for key, values in leaves.items():
        name = ".".join(key) if isinstance(key, tuple) else key
        if manager is None or values.ndim != 2 or not manager.group_obs_concatenate.get(name, False):
            yield name, values
            continue
        widths = [math.prod(shape) for shape in manager.group_obs_term_dim[name]]
        for term, part in zip(manager.active_terms[name], values.split(widths, dim=1), strict=True):
            yield f"{name}.{term}", part
