"""Least memory that a run needs, reported before a simulator starts.

A lower bound, for neither the simulator nor the widths of observations and actions are known yet: what is counted is
certain, and what is refused cannot run. Numbers of 32 bits throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

from spiky_rl.config.registry import ComponentSpec, UserError
from spiky_rl.config.schema import ModelSettings
from spiky_rl.config.spec import AgentSpec

NUMBER = 4
"""Bytes."""
TRAINING_COPIES = 4
"""Numbers kept for a weight that is learned: itself, its gradient, the optimiser's two moments."""
STORED = 10
"""Numbers that rsl_rl stores for a sample at least: an observation, an action, its mean and deviation, and six more."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: int) -> str:
    """``count`` bytes of memory as people write them."""
    size = float(min(count, 2**200))
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if size < 1e6 else f"{size:.0e} {unit}"


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where its container has less."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            have = min(have, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit, or the word max
            continue
    return have


def require_memory(parts: Mapping[str, int], available: int) -> None:
    """Raise UserError where ``parts``, each a number of bytes under its name, are more than the machine ``have``."""
    total = sum(parts.values())
    if total > available:
        largest = max(parts, key=lambda name: parts[name])
        raise UserError(
            f"{largest}: would take at least {format_bytes(parts[largest])} of memory, and there are {format_bytes(available)}; make it"
            " smaller"
        )


def check_run_memory(spec: AgentSpec, num_envs: int, available: int) -> None:
    """Refuse a run of ``spec`` with ``num_envs`` environments that cannot fit into ``have`` bytes.

    Raises UserError that names what is largest, and its memory.
    """
    steps = spec.get_setting("num_steps_per_env")
    rollout = f"--num_envs {num_envs} with agent.num_steps_per_env {steps}"
    stored = {rollout: STORED * NUMBER * num_envs * steps}
    require_memory({**stored, **compute_model_bytes(spec, f"--num_envs {num_envs}", num_envs)}, available)


def compute_model_bytes(spec: AgentSpec, rows: str, count: int) -> dict[str, int]:
    """Bytes of a specification's models at least, where they see ``count`` samples at once; ``rows`` says how that is set."""
    parts: dict[str, int] = {}
    for role, key, network in (
        ("actor", "network", spec.network),
        ("critic", "critic_network", spec.critic_network),
    ):
        model: _Model = spec.runner.get(role) or {}
        name = f"agent.{role}" if network is None else f"agent.{key}"
        weights, width = _ann(model) if network is None else _network(network)
        parts[f"{name} with {weights:,} weights"] = NUMBER * TRAINING_COPIES * weights
        parts[f"{name} with {width:,} neurons and {rows}"] = NUMBER * width * count
    return parts


def _chain(widths: Iterable[int]) -> int:
    """Weights between layers of these widths; the first layer's are not counted, for nobody knows how many inputs it has."""
    widths = list(widths)
    return sum(widths) + sum(above * below for above, below in pairwise(widths))


class _Model(TypedDict, total=False):
    """What of a model's settings decides its size, as `ModelSettings` checks it; Isaac Lab's have more keys."""

    class_name: str
    hidden_dims: Sequence[int]
    rnn_type: str
    rnn_hidden_dim: int
    rnn_num_layers: int


def _ann(model: _Model) -> tuple[int, int]:
    """(weights, neurons) of an ANN."""
    widths = model.get("hidden_dims") or ()
    weights, width = _chain(widths), sum(widths)
    if model.get("class_name") == "RNNModel":
        state = model.get("rnn_hidden_dim", ModelSettings.default("rnn_hidden_dim"))
        layers = model.get("rnn_num_layers", ModelSettings.default("rnn_num_layers"))
        gates = 3 if model.get("rnn_type", "gru") == "gru" else 4
        weights += gates * state * (state * (2 * layers - 1) + 2)
        width += state * layers
    return weights, width


def _network(network: ComponentSpec) -> tuple[int, int]:
    """(weights, neurons) of a spiking network. Channels of maps are no neurons: of such layers only a map's one is counted."""
    layers, size = getattr(network.options, "layers", ()), getattr(network.options, "size", 0)
    connection = network.parts.get("connection")
    dense = isinstance(connection, ComponentSpec) and connection.name == "linear"
    recurrent = network.parts.get("recurrent")
    weights = _chain(layers) if dense else sum(layers)
    if isinstance(recurrent, ComponentSpec) and recurrent.name == "recurrent":
        weights += sum(width * width for width in layers)
    return weights + size * size, sum(layers) + size
