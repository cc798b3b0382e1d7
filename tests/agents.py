"""Names of the agents that ship, by their algorithm, and what tests ask about them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from spiky_rl.config import registry
from spiky_rl.config.schema import get_algorithm
from spiky_rl.config.spec import add_default_layers, read_agent
from spiky_rl.learners.common.local_learning import get_local_rule

FAST = ("lif_ppo", "alif_recurrent_ppo", "lif_eprop")
"""Agents of the fast tests: without a state, recurrent, and with a local rule."""


def mark_slow(cases: Iterable[str], fast: Collection[str] = FAST) -> list[Any]:
    """Return ``cases`` as parameters of a test; those that are not in ``fast`` are slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in cases]


def is_ppo(agent: str) -> bool:
    return get_algorithm(read_agent(agent)[1].get("algorithm") or {}) == "ppo"


PPO_AGENTS = [name for name in registry.list_names("agents") if "classifier" not in name and is_ppo(name)]
"""Agents that PPO trains, on vectors or images."""


def network_of(agent: str):
    """An agent's network, or None for an ANN."""
    settings = read_agent(agent)[1].get("network")
    if settings is None:
        return None
    return registry.configure("networks", add_default_layers(settings, [6, 5]), agent)


def takes_images(agent: str) -> bool:
    network = network_of(agent)
    connection = None if network is None else network.parts.get("connection")
    return isinstance(connection, tuple) and connection[0].name == "convolutional"


def refused_by_skrl(agent: str) -> bool:
    """Whether a network is plastic or has a local rule, a teacher comes first, or novelty is rewarded."""
    if {"distillation_cfg", "rnd_cfg"} & set(read_agent(agent)[1].get("algorithm") or {}):
        return True
    network = network_of(agent)
    return network is not None and (
        network.parts.get("plasticity") is not None or get_local_rule(network) is not None
    )
