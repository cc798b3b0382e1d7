"""Agents and tasks as data: strict YAML, merged layer by layer, every value with its origin.

A run is described by one tree. Its layers, later ones over earlier ones:

    Isaac Lab's own registered configuration < task < agent < the agent's override for that task < tuned values < command line

The tree has the shape of Isaac Lab's rsl_rl configuration (``num_steps_per_env``, ``actor``, ``critic``,
``algorithm``, ...) plus what makes an agent spike: ``network`` and ``critic_network``. Unknown keys, wrong types and values
out of range are errors that name the origin, the key and the nearest valid one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import InstanceOf

from spiky_rl.config import cross_checks, registry
from spiky_rl.config.keys import with_hint
from spiky_rl.config.options import RegistryError, Settings, get_options, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue, get_section
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.safe_loading import ReadingError, parse_yaml, read_file
from spiky_rl.config.schema import NETWORKS, AgentFile, RunnerSettings, TaskSpec


class SpecError(RegistryError):
    """A file or an override that does not describe an agent or a task."""


class AgentSpec(Settings):
    """An agent as a run uses it: complete, checked, every value with its origin."""

    name: str
    runner: dict[str, Any]
    """Isaac Lab's rsl_rl configuration after all layers, without the networks: its values as they were written and not as
    `RunnerSettings` holds them, of which every layer was checked. There a 1 would become 1.0, which is another digest, and the
    host's own part has keys that are none of ours."""
    network: InstanceOf[ComponentSpec] | None = None
    critic_network: InstanceOf[ComponentSpec] | None = None
    origins: dict[str, str]
    """Dotted path -> the layer that set the value."""

    def get_setting(self, key: str) -> Any:
        """The value of the runner's ``key``, or the default of `RunnerSettings`."""
        return self.runner.get(key, RunnerSettings.default(key))

    def to_dict(self, neutral: bool = True) -> dict[str, Any]:
        """The whole specification as plain data.

        Args:
            neutral: With options that were added later and whose values change nothing.
        """
        tree = dict(self.runner)
        for key, network in (("network", self.network), ("critic_network", self.critic_network)):
            if network is not None:
                tree[key] = network.settings(neutral)
        return json.loads(json.dumps(tree))

    @property
    def digest(self) -> str:
        """Hash of the specification: equal for runs that differ in nothing but seed, device and names."""
        return hashlib.sha256(json.dumps(self.to_dict(neutral=False), sort_keys=True).encode()).hexdigest()[
            :16
        ]

    def list_values(self) -> list[tuple[str, Any, str]]:
        """(path, value, origin) of every value."""
        return [
            (path, value, find_origin(path, self.origins)) for path, value in flatten(self.to_dict()).items()
        ]


def load_task(name: str) -> TaskSpec | None:
    """The task file called ``name``, a file stem, a path, or a gym id with or without ``-v0``; None where there is none.

    Where several files describe one gym id, the id means the one that leaves the environment as it is.
    """
    stripped, by_id = re.sub(r"-v\d+$", "", name), None
    for path in [Path(name)] if name.endswith(".yaml") else sorted(registry.data_dir("tasks").glob("*.yaml")):
        task = _task(path)
        if name.endswith(".yaml") or path.stem == name:
            return task
        if task.id in (name, stripped) and (by_id is None or (by_id.env and not task.env)):
            by_id = task
    return by_id


def task_id(name: str) -> str:
    """The gym id that ``name`` stands for: a task's file stem, or a gym id with or without ``-v0``."""
    known = load_task(name)
    return known.id if known else re.sub(r"-v\d+$", "", name)


def read_agent(name: str) -> tuple[str, dict[str, Any], str]:
    """(name, file content, file name) of the agent ``name``, a file stem or a path. Raises SpecError."""
    if name.endswith(".yaml"):
        path = Path(name)
    elif name in registry.list_names("agents"):
        path = registry.data_dir("agents") / f"{name}.yaml"
    else:
        known = registry.list_names("agents")
        raise SpecError(f"unknown agent {name!r}; known: {', '.join(known)}{suggest_name(name, known)}")
    folder = path.parent.absolute()
    data: dict[str, Any] = {key: _resolve_paths(value, folder) for key, value in read_yaml(path).items()}
    _check_layer(data, path.name, AgentFile)
    for task, override in (data.get("tasks") or {}).items():
        _check_layer(override, f"{path.name} for {task}")
    return path.stem, data, path.name


def resolve_agent(
    name: str,
    task: str,
    host: PlainMapping,
    overrides: Iterable[str] = (),
    task_spec: TaskSpec | None = None,
    tuned: tuple[str, PlainMapping] = ("", {}),
) -> AgentSpec:
    """Merge all layers into one checked specification.

    Args:
        name: Agent file stem or path.
        task: Gym id.
        host: Isaac Lab's registered agent configuration for the task, as a nested dict.
        overrides: ``agent.x.y=value`` from the command line.
        task_spec: The task's file, where it has one.
        tuned: Where tuned values come from, and the values.
    """
    return build_agent_spec(*merge_agent(name, task, host, overrides, task_spec, tuned))


def merge_agent(
    name: str,
    task: str,
    host: PlainMapping,
    overrides: Iterable[str] = (),
    task_spec: TaskSpec | None = None,
    tuned: tuple[str, PlainMapping] = ("", {}),
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Merge all layers, given as to `resolve_agent`, of which only keys, types and ranges of the runner's part are checked then.

    Returns the agent's name, the merged values, and the origin of each by its dotted path.
    """
    stem, data, file = read_agent(name)
    own = {key: value for key, value in data.items() if key not in ("summary", "tasks")}
    layers: list[tuple[str, PlainMapping]] = [
        ("Isaac Lab", {k: host[k] for k in host if k in get_options(RunnerSettings)})
    ]
    if task_spec is not None:
        layers.append((f"tasks/{task_spec.name}.yaml", task_spec.agent))
    layers.append((file, own))
    layers += [
        (f"{file} for {t}", v)
        for t, v in (data.get("tasks") or {}).items()
        if _matches_task(t, task, task_spec)
    ]
    _check_layer(tuned[1], tuned[0])
    layers += [tuned, ("command line", parse_overrides(overrides))]
    return stem, *merge(layers)


def build_agent_spec(name: str, tree: PlainMapping, origins: Mapping[str, str]) -> AgentSpec:
    """The agent of merged layers, checked; that of an `AgentSpec.to_dict` is the same again. Raises SpecError.

    Args:
        name: The agent's.
        tree: The layers, merged.
        origins: Dotted path -> the layer that set the value; empty where that is not known.
    """
    try:
        networks = {
            key: (
                registry.configure("networks", _add_default_layers(tree, key), f"agent.{key}")
                if tree.get(key)
                else None
            )
            for key in NETWORKS
        }
        cross_checks.check_combination(tree)
        _check_models(tree, origins)
    except RegistryError as error:
        path = str(error).partition(":")[0].removeprefix("agent.")
        raise SpecError(f"{find_origin(path, origins)}: {with_hint(error)}") from None
    runner = {key: value for key, value in tree.items() if key not in NETWORKS}
    return AgentSpec(name=name, runner=runner, **networks, origins=dict(origins))


def _check_models(tree: PlainMapping, origins: Mapping[str, str]) -> None:
    """Refuse a model that is named for an agent and that its spiking network would take the place of. Raises RegistryError.

    What Isaac Lab or a task's file names is for the agents that do not spike.
    """
    for network, role in zip(NETWORKS, ("actor", "critic"), strict=True):
        origin = origins.get(f"{role}.class_name", "Isaac Lab")
        if tree.get(network) and origin != "Isaac Lab" and not origin.startswith("tasks/"):
            raise RegistryError(
                f"agent.{role}.class_name: {shorten(get_section(tree, role)['class_name'])} given, and agent.{network} takes its place;"
                f" allowed: nothing with agent.{network}"
            )


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """The ``overrides``, ``agent.x.y=value`` each, as a nested layer. Raises SpecError for anything else."""
    layer: dict[str, Any] = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.split(".")
        if not equals or keys[0] != "agent" or len(keys) < 2 or not all(keys):
            raise SpecError(f"command line: {text!r} is no override; write agent.key=value or env.key=value")
        node = layer
        for key in keys[1:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise SpecError(f"command line: {text!r} sets a key below one that is set already")
        try:
            node[keys[-1]] = parse_yaml(value)
        except ReadingError as error:
            raise SpecError(f"command line: {path}: {shorten(value)} is no value: {error}") from None
    _check_layer(layer, "command line")
    return layer


def merge(layers: Iterable[tuple[str, PlainMapping]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The ``layers``, (origin, values) each, as one nested mapping, later over earlier, and the origin of every leaf.

    A component (a mapping with a ``name``) that a later layer names anew loses the earlier one's options.
    """
    tree: dict[str, PlainValue] = {}
    origins: dict[str, str] = {}

    def put(node: dict[str, PlainValue], layer: PlainMapping, prefix: str, origin: str) -> None:
        for key, value in layer.items():
            path = f"{prefix}{key}"
            below: PlainValue = node.get(key)
            if isinstance(below, dict) and "name" in below and isinstance(value, str):
                value = {"name": value}
            if isinstance(below, str) and isinstance(value, Mapping) and value:
                below = node[key] = dict[str, PlainValue](name=below)
                origins[f"{path}.name"] = origins.pop(path)
            if isinstance(value, Mapping) and value:
                renamed = isinstance(below, dict) and value.get("name", below.get("name")) != below.get(
                    "name"
                )
                if not isinstance(below, dict) or renamed:
                    below = node[key] = {}
                    for stale in [p for p in origins if p == path or p.startswith(f"{path}.")]:
                        del origins[stale]
                put(below, value, f"{path}.", origin)
            else:
                node[key] = value
                origins[path] = origin

    for origin, layer in layers:
        put(tree, layer, "", origin)
    return tree, origins


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``. Raises SpecError that names the file, and the key or the line."""
    try:
        data = read_file(path, parse_yaml)
    except ReadingError as error:
        raise SpecError(str(error)) from None
    if not isinstance(data, dict):
        raise SpecError(f"{path.name}: expected a mapping of keys to values")
    return data


def _matches_task(name: str, task: str, task_spec: TaskSpec | None) -> bool:
    """Whether an agent's entry for ``name`` is for this task; one for a gym id holds for all tasks made of it."""
    known = load_task(name)
    if known is not None and known.env:
        return task_spec is not None and known.name == task_spec.name
    return task_id(name).rpartition(":")[2] == task.rpartition(":")[2]


def _check_layer(layer: PlainValue, origin: str, settings: type[RunnerSettings] = RunnerSettings) -> None:
    """Refuse unknown keys, wrong types and values out of range of the runner's part, in one layer."""
    try:
        settings.check("agent", layer)
        for key in NETWORKS:
            if not isinstance(layer, Mapping) or key not in layer:
                continue
            if not layer[key]:
                raise RegistryError(
                    f"agent.{key}: {json.dumps(layer[key])} names no network; write a name such as feedforward, or take an agent"
                    f" without one, such as mlp_ppo, and leave {key} out"
                )
            registry.check_name("networks", layer[key], f"agent.{key}")
    except RegistryError as error:
        raise SpecError(f"{origin}: {with_hint(error)}") from None


def _resolve_paths(node: PlainValue, folder: Path) -> PlainValue:
    """A file's content, in which ``file.py:Class`` and ``file.json`` mean a file beside it where there is one."""
    if isinstance(node, Mapping):
        return {key: _resolve_paths(value, folder) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve_paths(element, folder) for element in node]
    if isinstance(node, str):
        target, _, attribute = node.rpartition(":")
        if target.endswith(".py") and os.path.isfile(folder / target):
            return f"{folder / target}:{attribute}"
        # ours keep their names, so that a run's specification is the same on every machine
        if (
            node.endswith(".json")
            and os.path.isfile(folder / node)
            and folder != registry.data_dir("agents").absolute()
        ):
            return str(folder / node)
    return node


def _task(path: Path) -> TaskSpec:
    """The task that a file describes. Raises SpecError that names the file and the key."""
    data = read_yaml(path)
    try:
        task = TaskSpec.check("", {"name": path.stem, **data})
    except RegistryError as error:
        raise SpecError(f"{path.name}: {error}") from None
    _check_layer(task.agent, path.name)
    return task


def _add_default_layers(tree: PlainMapping, key: str) -> PlainMapping:
    """A network's settings; without layers of its own it takes those of the ANN in its place."""
    settings = registry.check_name("networks", tree[key], f"agent.{key}")
    hidden_dims = get_section(tree, "actor" if key == "network" else "critic").get("hidden_dims")
    return add_default_layers(
        settings, hidden_dims if isinstance(hidden_dims, Sequence) else (), f"agent.{key}"
    )


def add_default_layers(
    settings: PlainMapping, hidden_dims: Sequence[PlainValue], path: str = "network"
) -> dict[str, Any]:
    """A network's settings, with layers where it has layers and names none.

    Args:
        settings: With their ``name``.
        hidden_dims: Neurons of the layers that it takes then.
        path: Where the settings stand, for messages.

    Raises RegistryError for one that has none at all: nothing of it would spike.
    """
    if "layers" not in _get_network_options(settings.get("name")):
        return dict(settings)
    layers = settings.get("layers", list(hidden_dims))
    if layers is None or (isinstance(layers, list | tuple) and not layers):
        origin = (
            "; leave it out to take the hidden layers of the ANN in its place" if "layers" in settings else ""
        )
        raise RegistryError(
            f"{path}.layers: {layers!r} is no layer; give at least one number of neurons{origin}"
        )
    return {**settings, "layers": layers}


def _get_network_options(network: PlainValue) -> Iterable[str]:
    """The options of a network; none of one that is not there, of which `registry.configure` says so."""
    try:
        return registry.resolve("networks", network).Options.model_fields if isinstance(network, str) else ()
    except RegistryError:
        return ()


def flatten(tree: PlainMapping, prefix: str = "") -> dict[str, Any]:
    """The nested ``tree`` by dotted paths, each behind ``prefix``."""
    flat: dict[str, PlainValue] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_origin(path: str, origins: Mapping[str, str]) -> str:
    """The layer that set a path or something below it; what nobody set is a default."""
    if path in origins:
        return origins[path]
    for known, origin in origins.items():
        if known.startswith(f"{path}."):
            return origin
    # a component in short, such as ``neuron: lif``, sets its name and nothing else
    parent, _, leaf = path.rpartition(".")
    return origins.get(parent, "default") if leaf == "name" else "default"
