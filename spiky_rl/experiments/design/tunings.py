"""The tunings of a study: the source of each agent's tuned values, and the study's copies of them.

A text names one tuning for all agents, with the copy ``tuned.yaml``. A mapping names a tuning for each agent, with the copies
``tuned/AGENT/tuned.yaml``; agents that are absent from it are not tuned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from spiky_rl.config.options import RegistryError, shorten, suggest_name
from spiky_rl.config.tuned_values import FILE_NAME, TunedValuesFile, read_tuned


def parse_tunings(value: object) -> str | dict[str, str]:
    """Return ``value`` if it is a text or a mapping of agents to texts, each on one line. Raises RegistryError.

    An empty mapping is an empty text, as a study's file has it.
    """
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, dict) and all(isinstance(v, str) and v.strip() for v in value.values()):
        return {agent: " ".join(folder.split()) for agent, folder in value.items()} or ""
    raise RegistryError(f"{shorten(value)} given; allowed: a folder, or a mapping of agents to folders")


Tunings = Annotated[
    str | dict[str, str],
    BeforeValidator(parse_tunings, json_schema_input_type=str | dict[str, str]),
]


def get_agent_name(agent: str) -> str:
    """Return the name of an ``agent``, given as its name, which may have dots, or as the path of its YAML file."""
    return Path(agent).name.removesuffix(".yaml")


def find_tuning(tunings: Tunings, agent: str) -> str:
    """Return the tuning of the ``agent``; empty if it is not tuned."""
    return tunings if isinstance(tunings, str) else tunings.get(get_agent_name(agent), "")


def find_copy(tunings: Tunings, agent: str) -> str:
    """Return the path of the ``agent``'s copy of tuned values in a study's folder; empty if it is not tuned."""
    if not find_tuning(tunings, agent):
        return ""
    return FILE_NAME if isinstance(tunings, str) else f"tuned/{get_agent_name(agent)}/{FILE_NAME}"


def require_agents(tunings: Tunings, agents: Collection[str]) -> None:
    """Raise RegistryError if the ``tunings`` name an agent that is not among ``agents``, given as file stems."""
    for agent in () if isinstance(tunings, str) else tunings:
        if agent not in agents:
            hint = suggest_name(agent, agents) or f"; allowed: {', '.join(agents)}"
            raise RegistryError(f"tuning.{agent}: unknown agent{hint}")


def merge_tunings(old: Tunings, new: Tunings, shared_agents: Iterable[str]) -> Tunings | None:
    """Return the ``old`` tunings extended by the ``new`` ones; None if one of the ``shared_agents`` would change its tuning."""
    if isinstance(old, str) or isinstance(new, str):
        return new if old == new else None
    is_same = all(find_tuning(old, agent) == find_tuning(new, agent) for agent in shared_agents)
    return {**old, **new} if is_same else None


def read_copies(folder: Path, tunings: Tunings, agents: Iterable[str]) -> dict[str, TunedValuesFile]:
    """Return the tuned values in a study's ``folder``, by agent, for the ``agents`` with a copy. Raises SpecError."""
    copies = {agent: folder / copy for agent in agents if (copy := find_copy(tunings, agent))}
    read = {path: read_tuned(path) for path in {*copies.values()} if path.exists()}
    return {agent: read[path] for agent, path in copies.items() if path in read}
