"""Agent and task files, merged layer by layer into one specification that knows the origin of every value.

Later layers override earlier ones:

    the host's configuration < task < agent < the agent's override for host or task < tuned values < command line

A specification has the keys of Isaac Lab's rsl_rl configuration (``num_steps_per_env``, ``actor``, ``critic``,
``algorithm``, ...) and two for spiking networks, ``network`` and ``critic_network``. Errors for unknown keys, wrong types and
values out of range name the origin, the key and the nearest valid key.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import InstanceOf

from spiky_rl.config import registry
from spiky_rl.config.keys import format_with_hint
from spiky_rl.config.options import RegistryError, Settings, get_options, shorten, suggest_name
from spiky_rl.config.plain_data import PlainMapping, PlainValue, get_section
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.safe_loading import ReadingError, parse_yaml, read_file
from spiky_rl.config.schema import (
    ANN_KEYS,
    NETWORKS,
    AgentFile,
    RunnerSettings,
    TaskSpec,
    check_combination,
    get_algorithm,
)

log = logging.getLogger(__name__)

COMMAND_LINE = "command line"
"""Origin of overrides."""
DEFAULT = "default"
"""Origin of values that no layer sets."""
SECTIONS = ("actor", "critic", "algorithm")
"""Sections without which no agent can be built."""
NOISE_BOUNDS = "actor.distribution_cfg.std_range"
"""Path of the least and the largest standard deviation of the actions."""


class SpecError(RegistryError):
    """Error in a file or an override of an agent or a task."""


class AgentSpec(Settings):
    """Merged and checked agent with the origin of every value."""

    name: str
    runner: dict[str, Any]
    """Merged rsl_rl configuration without the networks. `RunnerSettings` has checked every layer, but the values stay as written:
    parsed ones would turn 1 into 1.0 and change the digest. The host's layer may have further keys."""
    network: InstanceOf[ComponentSpec] | None = None
    critic_network: InstanceOf[ComponentSpec] | None = None
    origins: dict[str, str]
    """Dotted path -> layer that set the value."""

    @property
    def algorithm(self) -> str:
        """Name of the algorithm: ``ppo``, ``td3`` or ``sac``."""
        return get_algorithm(get_section(self.runner, "algorithm"))

    def get_setting(self, key: str) -> Any:
        """Return the runner's value of ``key``, or the default of `RunnerSettings`."""
        return self.runner.get(key, RunnerSettings.default(key))

    def to_dict(self, for_digest: bool = False) -> dict[str, Any]:
        """Return the whole specification as plain data; for ``for_digest`` see `ComponentSpec.settings`."""
        tree = dict(self.runner)
        for key, network in (("network", self.network), ("critic_network", self.critic_network)):
            if network is not None:
                tree[key] = network.settings(for_digest)
        return json.loads(json.dumps(tree))

    @property
    def digest(self) -> str:
        """Hash of the specification; independent of seed, device and names."""
        text = json.dumps(self.to_dict(for_digest=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def list_values(self) -> list[tuple[str, Any, str]]:
        """Return (path, value, origin) of every value."""
        values = flatten(self.to_dict())
        return [(path, value, find_origin(path, self.origins)) for path, value in values.items()]


def load_task(name: str) -> TaskSpec | None:
    """Return the task for a file stem, a path, or a gym id with or without ``-v0``; None if there is no file.

    If several files have the gym id, return the task that leaves the environment unchanged.
    """
    if name.endswith(".yaml"):
        return _load_task_file(Path(name))
    ids = (name, name.removesuffix("-v0"))
    match: TaskSpec | None = None
    for path in sorted(registry.find_data_folder("tasks").glob("*.yaml")):
        task = _load_task_file_once(path)
        if path.stem == name:
            return task
        if task.id in ids and (match is None or (match.env and not task.env)):
            match = task
    return match


def get_task_id(name: str) -> str:
    """Return the gym id for ``name``, a task's file stem or a gym id."""
    known = load_task(name)
    return known.id if known else name


def strip_version(name: str) -> str:
    """Return a gym id without its version, such as ``-v0``."""
    return re.sub(r"-v\d+$", "", name)


def read_agent(name: str) -> tuple[str, dict[str, Any], str]:
    """Return (name, file content, file name) of an agent, given as a file stem or a path. Raises SpecError."""
    if name.endswith(".yaml"):
        path = Path(name)
    elif name in registry.list_names("agents"):
        path = registry.find_data_folder("agents") / f"{name}.yaml"
    else:
        known = registry.list_names("agents")
        if Path(name).is_file():
            raise SpecError(
                f"agent {name!r} given; allowed: a path that ends in .yaml, or a name of an agent"
            )
        file = f"{name}.yaml"
        hint = f"; did you mean {file!r}?" if Path(file).is_file() else suggest_name(name, known)
        raise SpecError(
            f"unknown agent {name!r}; known: {', '.join(known)}, or a path that ends in .yaml{hint}"
        )
    folder = path.parent.absolute()
    data: dict[str, Any] = {key: _resolve_paths(value, folder) for key, value in read_yaml(path).items()}
    _check_layer(data, path.name, AgentFile)
    for task, override in (data.get("tasks") or {}).items():
        _check_layer(override, f"{path.name} for {task}")
        if "class_name" in get_section(override or {}, "algorithm"):
            raise SpecError(
                f"{path.name}: agent.tasks.{task}.algorithm.class_name: given; allowed: in the agent's own algorithm, for all tasks"
            )
    return path.stem, data, path.name


def read_algorithm(name: str, overrides: Iterable[str] = ()) -> str:
    """Return the name of the algorithm in an agent's file and ``overrides``, such as ``td3``.

    The overrides for a task are not read: they do not change the algorithm.
    """
    _, data, file = read_agent(name)
    tree, _ = merge([(file, data), (COMMAND_LINE, parse_overrides(overrides))])
    return get_algorithm(get_section(tree, "algorithm"))


def resolve_agent(
    name: str,
    task: str,
    defaults: PlainMapping,
    overrides: Iterable[str] = (),
    task_spec: TaskSpec | None = None,
    tuned: tuple[str, PlainMapping] = ("", {}),
    host: str = "host",
) -> AgentSpec:
    """Merge all layers into one checked specification.

    Args:
        name: Agent file stem or path.
        task: Gym id.
        defaults: The host's agent configuration for the task, as a nested dict.
        overrides: ``agent.x.y=value`` from the command line.
        task_spec: Content of the task file, if there is one.
        tuned: (origin, values) of the tuned values.
        host: Title of the task's host: the origin of ``defaults``, and a key of the agent's overrides for tasks.
    """
    return build_agent_spec(*merge_agent(name, task, defaults, overrides, task_spec, tuned, host))


def merge_agent(
    name: str,
    task: str,
    defaults: PlainMapping,
    overrides: Iterable[str] = (),
    task_spec: TaskSpec | None = None,
    tuned: tuple[str, PlainMapping] = ("", {}),
    host: str = "host",
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Merge all layers, with the arguments of `resolve_agent`; check only keys, types and ranges outside the networks.

    Returns the agent's name, the merged values, and dotted path -> origin.
    """
    stem, data, file = read_agent(name)
    known_keys = get_options(RunnerSettings)
    layers: list[tuple[str, PlainMapping]] = [
        (host, {key: value for key, value in defaults.items() if key in known_keys})
    ]
    if task_spec is not None:
        layers.append((f"tasks/{task_spec.name}.yaml", task_spec.agent))
    layers.append((file, {key: value for key, value in data.items() if key not in ("summary", "tasks")}))
    task_overrides = data.get("tasks") or {}
    if host in task_overrides:
        layers.append((f"{file} for {host}", task_overrides[host]))
    for key, override in task_overrides.items():
        if _matches_task(key, task, task_spec):
            layers.append((f"{file} for {key}", override))
    tuned_origin, tuned_values = tuned
    _check_layer(tuned_values, tuned_origin)
    layers.append(tuned)
    layers.append((COMMAND_LINE, parse_overrides(overrides)))
    tree, origins = merge(layers)
    return stem, tree, origins


def build_agent_spec(name: str, tree: PlainMapping, origins: Mapping[str, str]) -> AgentSpec:
    """Check merged layers and build the agent; inverse of `AgentSpec.to_dict`. Raises SpecError.

    ``origins`` is dotted path -> layer that set the value, and may be empty.
    """
    with name_origins(origins):
        networks = {key: configure_network(tree, key) for key in NETWORKS if tree.get(key)}
        check_combination(tree)
        _check_models(tree, networks, origins)
    runner = {key: value for key, value in tree.items() if key not in NETWORKS}
    return AgentSpec(name=name, runner=runner, **networks, origins=dict(origins))


@contextmanager
def name_origins(origins: Mapping[str, str]) -> Iterator[None]:
    """Turn a RegistryError on a key of an agent into a SpecError that begins with the layer that set the key."""
    try:
        yield
    except RegistryError as error:
        path = str(error).partition(":")[0].removeprefix("agent.")
        raise SpecError(f"{find_origin(path, origins)}: {format_with_hint(error)}") from None


def _check_models(
    tree: PlainMapping, networks: Mapping[str, ComponentSpec], origins: Mapping[str, str]
) -> None:
    """Raise RegistryError if an agent sets a key of an ANN that one of its spiking ``networks`` replaces.

    ``hidden_dims`` may be the network's layers. A key is ignored if the host or a task file sets it, or if only the command line adds the
    network to an agent with an ANN.
    """
    for (key, network), ann_key in itertools.product(networks.items(), ANN_KEYS):
        role = "actor" if key == "network" else "critic"
        origin = origins.get(f"{role}.{ann_key}", "")
        is_added = origin != COMMAND_LINE and find_origin(f"{key}.name", origins) == COMMAND_LINE
        value, layers = get_section(tree, role).get(ann_key), list(getattr(network.options, "layers", ()))
        if not is_agent_origin(origin) or is_added or (ann_key == "hidden_dims" and value == layers):
            continue
        remedy = "leave out one of the two"
        if ann_key == "hidden_dims" and layers:
            remedy = f"set agent.{key}.layers, now {layers}"
        raise RegistryError(
            f"agent.{role}.{ann_key}: {shorten(value)} given, but agent.{key} replaces the model; {remedy}"
        )


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse ``agent.x.y=value`` texts into a nested layer; of a repeated key, the last value counts.

    Raises SpecError for any other text, and for a value that drops an earlier one of a key below it.
    """
    layer: dict[str, Any] = {}
    given_keys: list[str] = []
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.split(".")
        if not equals or keys[0] != "agent" or len(keys) < 2 or not all(keys):
            raise SpecError(f"command line: {text!r} is not an override; allowed: agent.key=value")
        node = layer
        for key in keys[1:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise SpecError(f"command line: {text!r} sets a key below a value that is already set")
        try:
            node[keys[-1]] = parse_yaml(value)
        except ReadingError as error:
            raise SpecError(f"command line: {path}: {shorten(value)} is not a value: {error}") from None
        if dropped := next((key for key in given_keys if key.startswith(f"{path}.")), None):
            raise SpecError(
                f"command line: {text!r} given after {dropped}, which it drops; allowed: single keys, such as {path}.name=NAME"
            )
        given_keys.append(path)
    _check_layer(layer, COMMAND_LINE)
    return layer


def merge(layers: Iterable[tuple[str, PlainMapping]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge (origin, values) layers, later over earlier; return the values and dotted path -> origin of every leaf.

    If a later layer changes the ``name`` of a component, or the algorithm, the options of earlier layers are dropped; with the algorithm,
    also the bounds of its action noise. Raises SpecError for options without a name over a list of components: they would drop it.
    """
    tree: dict[str, PlainValue] = {}
    origins: dict[str, str] = {}

    def put(node: dict[str, PlainValue], layer: PlainMapping, prefix: str, origin: str) -> None:
        for key, value in layer.items():
            path = f"{prefix}{key}"
            earlier: PlainValue = node.get(key)
            # a component may be written as its name alone, so both forms become mappings before they are merged
            if isinstance(earlier, dict) and "name" in earlier and isinstance(value, str):
                value = {"name": value}
            if not (isinstance(value, Mapping) and value):
                node[key] = value
                origins[path] = origin
                continue
            if isinstance(earlier, str):
                earlier = node[key] = dict[str, PlainValue](name=earlier)
                origins[f"{path}.name"] = origins.pop(path)
            if isinstance(earlier, list | tuple) and "name" not in value:
                raise SpecError(
                    f"{origin}: agent.{path}: {shorten(dict(value))} given; allowed: a list, as in {origins[path]}, or a mapping with a name"
                )
            if not isinstance(earlier, dict) or _replaces(path, earlier, value):
                earlier = node[key] = {}
                for stale in [p for p in origins if p == path or p.startswith(f"{path}.")]:
                    del origins[stale]
            put(earlier, value, f"{path}.", origin)

    for origin, layer in layers:
        if _replaces("algorithm", get_section(tree, "algorithm"), get_section(layer, "algorithm")):
            _drop_noise_bounds(tree, origins)
        put(tree, layer, "", origin)
    return tree, origins


def _drop_noise_bounds(tree: PlainMapping, origins: dict[str, str]) -> None:
    """Delete the bounds of the action noise from ``tree`` and ``origins`` if host or task set them, for their own algorithm."""
    origin = origins.get(NOISE_BOUNDS, "")
    if origin and not is_agent_origin(origin):
        distribution: Any = get_section(get_section(tree, "actor"), "distribution_cfg")
        del distribution["std_range"], origins[NOISE_BOUNDS]


def _replaces(path: str, earlier: PlainMapping, later: PlainMapping) -> bool:
    """Return whether the ``later`` mapping at ``path`` is of another component or algorithm than the ``earlier`` one."""
    name = earlier.get("name")
    if not registry.is_same_entry(later.get("name", name), name):
        return True
    return path == "algorithm" and get_algorithm({**earlier, **later}) != get_algorithm(earlier)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping. Raises SpecError that names the file and the key or line."""
    try:
        data = read_file(path, parse_yaml)
    except ReadingError as error:
        raise SpecError(str(error)) from None
    if not isinstance(data, dict):
        raise SpecError(f"{path.name}: expected a mapping of keys to values")
    return data


def is_host_origin(origin: str) -> bool:
    """Return whether a layer with this ``origin`` is a host's configuration; all other layers are files and the command line."""
    return ".yaml" not in origin and origin not in (COMMAND_LINE, DEFAULT)


def is_agent_origin(origin: str) -> bool:
    """Return whether a layer with this ``origin`` is for one agent: all layers but the host's and the task file's."""
    return not is_host_origin(origin) and not origin.startswith("tasks/")


def _matches_task(name: str, task: str, task_spec: TaskSpec | None) -> bool:
    """Return whether an agent's override for ``name`` applies to the gym id ``task`` with the file ``task_spec``.

    A gym id covers all task files with that id, and an id without version covers all of its versions.
    """
    named_task = load_task(name)
    if named_task is not None and named_task.env:
        return task_spec is not None and named_task.name == task_spec.name
    # a gym id may begin with the module that registers it, ``module:id``
    named_id = get_task_id(name).rpartition(":")[2]
    own_id = task.rpartition(":")[2]
    return named_id in (own_id, strip_version(own_id)) or strip_version(named_id) == own_id


def _check_layer(layer: PlainValue, origin: str, settings: type[RunnerSettings] = RunnerSettings) -> None:
    """Raise SpecError for an unknown key, a wrong type or a value out of range in one layer; check only the names of networks."""
    try:
        settings.check("agent", layer)
        for key in SECTIONS:
            if isinstance(layer, Mapping) and layer.get(key) == {}:
                raise RegistryError(f"agent.{key}: {{}} given, which drops all its values; leave it out")
        for key in NETWORKS:
            if not isinstance(layer, Mapping) or key not in layer:
                continue
            if not layer[key]:
                raise RegistryError(
                    f"agent.{key}: {json.dumps(layer[key])} is not a network; give a name such as feedforward, or use an agent"
                    " without a network, such as mlp_ppo"
                )
            registry.normalize_settings("networks", layer[key], f"agent.{key}")
    except RegistryError as error:
        raise SpecError(f"{origin}: {format_with_hint(error)}") from None


def _resolve_paths(node: PlainValue, folder: Path) -> PlainValue:
    """Return a file's content with ``file.py:Class``, ``file.json`` and ``file.nir`` made absolute if the file exists in ``folder``."""
    if isinstance(node, Mapping):
        return {key: _resolve_paths(value, folder) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve_paths(element, folder) for element in node]
    return _resolve_path(node, folder) if isinstance(node, str) else node


def _resolve_path(text: str, folder: Path) -> str:
    """Return ``text`` with its path made absolute under the conditions of `_resolve_paths`."""
    target, _, attribute = text.rpartition(":")
    if target.endswith(".py") and os.path.isfile(folder / target):
        return f"{folder / target}:{attribute}"
    # files of the package stay relative, so that a specification is the same on every machine
    in_package = folder == registry.find_data_folder("agents").absolute()
    if text.endswith((".json", ".nir")) and not in_package and os.path.isfile(folder / text):
        return str(folder / text)
    return text


def follow_moved_files(node: PlainValue, texts: Collection[str]) -> Any:
    """Return plain data with ``file.py:Class``, ``file.json`` and ``file.nir`` replaced by the path of that file in ``texts``.

    A path is replaced only if ``texts`` has exactly one with the same file name (and class), so that checkpoints of a project whose folder
    has moved can still be used. The change is logged.
    """
    if isinstance(node, Mapping):
        return {key: follow_moved_files(value, texts) for key, value in node.items()}
    if isinstance(node, list):
        return [follow_moved_files(element, texts) for element in node]
    if not isinstance(node, str) or not re.search(r"\.py:\w+$|\.(json|nir)$", node):
        return node
    paths = {text for text in texts if Path(text).name == Path(node).name}
    if len(paths) != 1 or node in paths:
        return node
    log.info("%s: in another folder now: %s", node, *paths)
    return paths.pop()


def _load_task_file(path: Path) -> TaskSpec:
    """Load a task file. Raises SpecError that names the file and the key."""
    data = read_yaml(path)
    try:
        task = TaskSpec.check("", {"name": path.stem, **data})
    except RegistryError as error:
        raise SpecError(f"{path.name}: {error}") from None
    _check_layer(task.agent, path.name)
    folder = path.parent.absolute()
    return task.with_changes(agent={key: _resolve_paths(value, folder) for key, value in task.agent.items()})


def _load_task_file_once(path: Path) -> TaskSpec:
    """Load a task file, or copy what was loaded if the file has not changed: the plan of a tuning reads all task files many times."""
    try:
        status = path.stat()
    except OSError:
        return _load_task_file(path)  # raises the error that names the file
    loaded = _load_unchanged_task_file(path, (status.st_ino, status.st_mtime_ns, status.st_size))
    return loaded.model_copy(deep=True)


@functools.lru_cache(maxsize=128)
def _load_unchanged_task_file(path: Path, _version: tuple[int, ...]) -> TaskSpec:
    """Load a task file; ``_version`` is different after every change of the file."""
    return _load_task_file(path)


def configure_network(tree: PlainMapping, key: str, requires_layers: bool = True) -> ComponentSpec:
    """Check and complete the network ``key``; without ``layers`` it gets the ANN's hidden layers.

    If ``tree`` has no hidden layers either, a network that needs them gets layers of width 1, or RegistryError is raised if
    ``requires_layers``.
    """
    path = f"agent.{key}"
    settings = registry.normalize_settings("networks", tree[key], path)
    hidden_dims = get_section(tree, "actor" if key == "network" else "critic").get("hidden_dims")
    widths = hidden_dims if isinstance(hidden_dims, Sequence) else ()
    if not widths and not requires_layers:
        # a part that is a list has an element for each layer
        widths = [1] * max(
            (len(part) for part in settings.values() if isinstance(part, list | tuple)), default=1
        )
    return registry.configure("networks", add_default_layers(settings, widths, path), path)


def add_default_layers(
    settings: PlainMapping, hidden_dims: Sequence[PlainValue], path: str = "network"
) -> dict[str, Any]:
    """Return a network's settings; if its option ``layers`` is not set, it becomes the ANN's ``hidden_dims``.

    Raises RegistryError naming ``path`` if there is no layer at all, because nothing would spike.
    """
    if "layers" not in _get_network_options(settings.get("name")):
        return dict(settings)
    layers = settings.get("layers", list(hidden_dims))
    if layers is None or (isinstance(layers, list | tuple) and not layers):
        remedy = "; leave it out to use the hidden layers of the ANN" if "layers" in settings else ""
        raise RegistryError(
            f"{path}.layers: {layers!r} has no layer; give at least one number of neurons{remedy}"
        )
    return {**settings, "layers": layers}


def _get_network_options(network: PlainValue) -> Iterable[str]:
    """Return the option names of a network; none if it is unknown, an error that `registry.configure` raises later."""
    if not isinstance(network, str):
        return ()
    try:
        return registry.resolve("networks", network).Options.model_fields
    except RegistryError:
        return ()


def flatten(tree: PlainMapping, prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> value of a nested mapping."""
    flat: dict[str, PlainValue] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_origin(path: str, origins: Mapping[str, str]) -> str:
    """Return the layer that set the value at ``path`` or the first value below it; `DEFAULT` if no layer did.

    An element of a list has the origin of the list.
    """
    path = path.partition("[")[0]
    if path in origins:
        return origins[path]
    for known, origin in origins.items():
        if known.startswith(f"{path}."):
            return origin
    # a component that is written as its name alone, such as ``neuron: lif``, has its origin at the component's path
    parent, _, leaf = path.rpartition(".")
    return origins.get(parent, DEFAULT) if leaf == "name" else DEFAULT
