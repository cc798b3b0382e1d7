"""Names of the agents that ship, by their algorithm."""

from spiky_rl.config import registry
from spiky_rl.config.schema import get_algorithm
from spiky_rl.config.spec import read_agent


def is_ppo(agent: str) -> bool:
    return get_algorithm(read_agent(agent)[1].get("algorithm") or {}) == "ppo"


PPO_AGENTS = [name for name in registry.list_names("agents") if "classifier" not in name and is_ppo(name)]
"""Agents that PPO trains, on vectors or images."""
