"""Lower bound on the memory of a run, checked before a simulator starts.

It leaves out the simulator's memory and the sizes of observations and actions, which are not known yet. So a run that is
refused would not fit, but a run that is allowed may not fit either. All numbers count as 32 bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from spiky_rl.config.errors import UserError
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.schema import Algorithm, ModelSettings
from spiky_rl.config.spec import AgentSpec

NUMBER = 4
"""Bytes of a number."""
TRAINING_COPIES = 4
"""Numbers per trained weight: value, gradient and the two moments of the optimiser."""
NUMBERS_PER_SAMPLE = 10
"""Minimum of numbers per sample in rsl_rl's rollout: observation, action, its mean and standard deviation, and six more."""
NUMBERS_PER_TRANSITION = 4
"""Minimum of numbers per transition in a replay buffer: two observations, action and reward."""
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: int) -> str:
    """Format ``count`` bytes with a unit, such as ``16 GB``."""
    size = float(min(count, 2**200))
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if size < 1e6 else f"{size:.0e} {unit}"


def get_machine_memory() -> int:
    """Return the memory of the machine, or the limit of its container if that is lower, in bytes."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            available = min(available, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit, or the word max
            continue
    return available


def require_memory(parts: Mapping[str, int], available: int) -> None:
    """Raise UserError naming the largest part if the ``parts`` (name -> bytes) exceed the ``available`` bytes."""
    total = sum(parts.values())
    if total > available:
        largest = max(parts, key=parts.__getitem__)
        raise UserError(
            f"{largest}: needs at least {format_bytes(parts[largest])} of memory; available: {format_bytes(available)};"
            " reduce its size"
        )


def check_run_memory(spec: AgentSpec, num_envs: int, available: int) -> None:
    """Raise UserError naming the largest part if a training of ``spec`` cannot fit into ``available`` bytes."""
    if spec.algorithm == "ppo":
        steps = spec.get_setting("num_steps_per_env")
        rollout = f"--num_envs {num_envs} with agent.num_steps_per_env {steps}"
        stored = {rollout: NUMBERS_PER_SAMPLE * NUMBER * num_envs * steps}
    else:
        size = spec.runner["algorithm"].get("replay_size", Algorithm.default("replay_size"))
        stored = {f"agent.algorithm.replay_size {size}": NUMBERS_PER_TRANSITION * NUMBER * size}
    require_memory({**stored, **compute_model_bytes(spec, f"--num_envs {num_envs}", num_envs)}, available)


def compute_model_bytes(spec: AgentSpec, rows: str, count: int) -> dict[str, int]:
    """Return the minimum bytes of actor and critic by part, for ``count`` samples; ``rows`` names the option that sets them."""
    parts: dict[str, int] = {}
    for role, key, network in (
        ("actor", "network", spec.network),
        ("critic", "critic_network", spec.critic_network),
    ):
        if network is None:
            name, fixed, (trained, width) = f"agent.{role}", 0, _count_ann(spec.runner.get(role) or {})
        else:
            # a reservoir's own weights are not trained
            fixed = getattr(network.options, "size", 0) ** 2
            name, (trained, width) = f"agent.{key}", _count_network(network)
        parts[f"{name} with {trained + fixed:,} weights"] = NUMBER * (TRAINING_COPIES * trained + fixed)
        parts[f"{name} with {width:,} neurons and {rows}"] = NUMBER * width * count
    return parts


def is_dense(network: ComponentSpec) -> bool:
    """Return whether the layers of a spiking ``network`` are densely connected."""
    connection = network.parts.get("connection")
    return isinstance(connection, ComponentSpec) and connection.name == "linear"


def _count_weights(widths: Iterable[int]) -> int:
    """Return the number of weights and biases of dense layers, without the weights of the unknown inputs."""
    widths = list(widths)
    return sum(widths) + sum(above * below for above, below in pairwise(widths))


def _count_ann(model: Mapping[str, Any]) -> tuple[int, int]:
    """Return (weights, neurons) of an ANN with settings as checked by `ModelSettings`."""
    widths = model.get("hidden_dims") or ()
    weights, width = _count_weights(widths), sum(widths)
    if model.get("class_name") == "RNNModel":
        state = model.get("rnn_hidden_dim", ModelSettings.default("rnn_hidden_dim"))
        layers = model.get("rnn_num_layers", ModelSettings.default("rnn_num_layers"))
        gates = 3 if model.get("rnn_type", "gru") == "gru" else 4
        weights += gates * state * (state * (2 * layers - 1) + 2 * layers)
        width += state * layers
    return weights, width


def _count_network(network: ComponentSpec) -> tuple[int, int]:
    """Return (trained weights, neurons) of a spiking network. A convolutional layer counts one neuron per channel, a lower bound."""
    layers, size = getattr(network.options, "layers", ()), getattr(network.options, "size", 0)
    recurrent = network.parts.get("recurrent")
    weights = _count_weights(layers) if is_dense(network) else sum(layers)
    if isinstance(recurrent, ComponentSpec) and recurrent.name == "recurrent":
        weights += sum(width * width for width in layers)
    return weights, sum(layers) + size
