"""Checks of an agent's networks before slow imports: first the parts that need no torch, then all that need no simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spiky_rl.config import registry
from spiky_rl.config.plain_data import PlainMapping, PlainValue
from spiky_rl.config.schema import NETWORKS
from spiky_rl.config.spec import configure_network, name_origins

LIGHT = ("neurons", "surrogates")
"""Kinds of components that import only the standard library and pydantic."""


def check_networks(tree: PlainMapping, origins: Mapping[str, str]) -> None:
    """Raise SpecError naming layer and key if an agent's networks are invalid on every task.

    ``tree`` is the merged agent without the simulator's own configuration of the task; ``origins`` is dotted path -> layer.
    """
    keys = [key for key in NETWORKS if tree.get(key)]
    with name_origins(origins):
        for key in keys:
            check_light("networks", tree[key], f"agent.{key}")
        for key in keys:
            configure_network(tree, key, requires_layers=False)


def check_light(kind: str, settings: PlainValue, path: str) -> None:
    """Check the parts of a component that need no torch. Raises RegistryError that names the key and the allowed values.

    The arguments are those of `registry.configure`, which later checks the other parts and foreign components.
    """
    mapping = registry.normalize_settings(kind, settings, path)
    name = mapping.get("name")
    if not isinstance(name, str) or registry.is_foreign(name):
        return
    if kind in LIGHT:
        registry.configure(kind, mapping, path)  # raises RegistryError if the settings are invalid
        return
    for key, (part_kind, default) in registry.read_parts(kind, name).items():
        for part_path, part in _iterate_part(f"{path}.{key}", mapping.get(key)):
            check_light(part_kind, registry.merge_default(part, default), part_path)


def _iterate_part(path: str, settings: PlainValue) -> Iterator[tuple[str, PlainValue]]:
    """Yield (path, settings) of each component of a part, which may be a list."""
    if isinstance(settings, list | tuple):
        yield from ((f"{path}[{i}]", element) for i, element in enumerate(settings) if element is not None)
    elif settings is not None:
        yield path, settings
