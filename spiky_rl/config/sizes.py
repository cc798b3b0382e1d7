"""What a run takes of the memory at least, told before a simulator starts.

A lower bound, for neither the simulator nor the widths of observations and actions are known yet: what is counted is
certain, and what is refused cannot run. Numbers of 32 bits throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from spiky_rl.registry import Configured, UserError
from spiky_rl.schema import RUNNER
from spiky_rl.spec import AgentSpec

NUMBER = 4
"""Bytes."""
LEARNED = 4
"""Numbers kept for a weight that is learned: itself, its gradient, the optimiser's two moments."""
STORED = 10
"""Numbers that rsl_rl stores for a sample at least: an observation, an action, its mean and deviation, and six more."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def readable(count: int) -> str:
    """An amount of memory for people."""
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


def require(parts: Mapping[str, int], have: int, remedy: str) -> None:
    """Raise UserError where ``parts``, each a number of bytes under its name, are more than the machine ``have``."""
    total = sum(parts.values())
    if total > have:
        largest = max(parts, key=lambda name: parts[name])
        raise UserError(
            f"{largest}: would take at least {readable(parts[largest])} of memory, and there are {readable(have)}; {remedy}"
        )


def check(spec: AgentSpec, num_envs: int, have: int) -> None:
    """Refuse a run that cannot fit into ``have`` bytes. Raises UserError that names what is largest, and its memory."""
    steps = spec.runner.get("num_steps_per_env", RUNNER["num_steps_per_env"].default)
    parts = {
        f"a rollout of --num_envs {num_envs} x agent.num_steps_per_env {steps}": STORED
        * NUMBER
        * num_envs
        * steps
    }
    for role, key, network in (
        ("actor", "network", spec.network),
        ("critic", "critic_network", spec.critic_network),
    ):
        if network is None:
            model = spec.runner.get(role) or {}
            weights, width, name = _ann(model), sum(model.get("hidden_dims") or ()), f"agent.{role}"
        else:
            weights, width = _network(network)
            name = f"agent.{key}"
        parts[f"{name} with {weights:,} weights"] = NUMBER * LEARNED * weights
        parts[f"{name} with {width:,} neurons in --num_envs {num_envs}"] = NUMBER * width * num_envs
    require(parts, have, "make it smaller")


def _chain(widths: Iterable[int]) -> int:
    """Weights between layers of these widths; the first layer's are not counted, for nobody knows how many inputs it has."""
    widths = list(widths)
    return sum(widths) + sum(above * below for above, below in pairwise(widths))


def _ann(model: Mapping[str, Any]) -> int:
    weights = _chain(model.get("hidden_dims") or ())
    if model.get("class_name") == "RNNModel":
        width, layers = (
            model.get(key, RUNNER["actor"][key].default) for key in ("rnn_hidden_dim", "rnn_num_layers")
        )
        weights += (
            (3 if model.get("rnn_type", "gru") == "gru" else 4) * width * (width * (2 * layers - 1) + 2)
        )
    return weights


def _network(network: Configured) -> tuple[int, int]:
    """(weights, neurons) of a spiking network. Channels of maps are no neurons: of such layers only a map's one is counted."""
    layers, size = network.options.get("layers", ()), network.options.get("size", 0)
    connection = network.parts.get("connection")
    dense = isinstance(connection, Configured) and connection.name == "linear"
    recurrent = network.parts.get("recurrent")
    weights = _chain(layers) if dense else sum(layers)
    if isinstance(recurrent, Configured) and recurrent.name == "recurrent":
        weights += sum(width * width for width in layers)
    return weights + size * size, sum(layers) + size
