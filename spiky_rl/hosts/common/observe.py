"""Activity of a policy: spikes, operations and rasters, as every host shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spiky_rl.hosts.common.interfaces import Writer
from spiky_rl.metrics.energy import PRICES, Cost
from spiky_rl.metrics.meter import Meter, meter_of, of_ann
from spiky_rl.metrics.spikes import Firing, firing, mean_rate, picture, rate_by_environment, timelines
from spiky_rl.metrics.synops import dense_operations, effective_operations, operations_by_environment
from spiky_rl.networks.base import Record, SpikingNetwork, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 512
"""Environments that the activity of a rollout is measured on, at most."""


@dataclass(frozen=True)
class Activity:
    """One model's activity and cost per control step."""

    layers: list[Firing]
    rate: float
    """Mean spikes per neuron and inner step; 0 for an ANN."""
    operations: float
    """Effective synaptic operations per control step; an ANN's multiply-accumulates."""
    ann_operations: float
    """Multiply-accumulates of the ANN in the model's place: Isaac Lab's own network for the task."""
    cost: Cost | None
    """What the control step cost, by kind of operation; None for a network from elsewhere, whose connections are not known."""
    rates: Tensor
    """``rate`` of every environment by itself, [B]."""
    operations_each: Tensor
    """``operations`` of every environment by itself, [B]."""


def ann_activity(model: nn.Module, body: nn.Module, run: Callable[[], object], samples: int) -> Activity:
    """Activity of a ``model`` that does not spike, when ``run`` sends ``samples`` observations through its ``body`` once."""
    operations = dense_operations(model)
    each = torch.full((samples,), float(operations))
    return Activity([], 0.0, operations, operations, of_ann(body, run, samples), torch.zeros_like(each), each)


def activity(
    network: SpikingNetwork,
    x: Tensor,
    state: State | None,
    ann_operations: float,
    meter: Meter | None = None,
) -> Activity:
    """Activity of a network in one control step.

    Args:
        network: The network.
        x: What its model sees, [B, O].
        state: Before the step; None: rest.
        ann_operations: Multiply-accumulates of the ANN in the model's place.
        meter: The network's, where its weights stay; None: a new one.
    """
    record = one_step(network, x, state)
    layers = firing(record)
    meter = meter or meter_of(network)
    cost = None if meter is None else meter(record)
    return Activity(
        layers, mean_rate(layers, record), effective_operations(record), ann_operations, cost,
        rate_by_environment(record), operations_by_environment(record),
    )  # fmt: skip


def one_step(network: SpikingNetwork, x: Tensor, state: State | None) -> Record:
    """Activity of a ``network`` in a control step, for the input ``x`` [B, O] of its model; a ``state`` of None: from rest."""
    record = Record()
    with torch.no_grad():
        network(x.unsqueeze(0), state or network.zero_state(x.shape[0], x), record=record)
    return record


def raster(network: SpikingNetwork, x: Tensor, state: State | None, dones: Tensor) -> Figure:
    """Spike raster and membrane traces over one environment's rollout, as a matplotlib figure.

    Args:
        network: The network.
        x: What its model saw, [T, 1, O].
        state: Before the first control step, of a stateful network; None: rest.
        dones: Whether the episode ended with a control step, [T].
    """
    begins = torch.roll(dones > 0, 1, 0)
    begins[0] = False
    record, _ = recorded(network, x, state, begins)
    return picture(*timelines(record, network.stateful), network.steps)


def recorded(
    network: SpikingNetwork, x: Tensor, state: State | None, begins: Tensor
) -> tuple[Record, State | None]:
    """Activity of a network over one environment's control steps, and its state after them; None for a stateless one.

    Args:
        network: The network.
        x: What its model saw, [T, 1, O].
        state: Before the first control step; None: rest.
        begins: Whether an episode begins with a control step, at rest, [T].
    """
    record = Record()
    with torch.no_grad():
        if not network.stateful:
            network(x.transpose(0, 1), network.zero_state(x.shape[0], x), record=record)
            return record, None
        keep = 1.0 - begins.float().view(-1, 1)
        _, after = network(x, state or network.zero_state(1, x), keep=keep, record=record)
    return record, after


def write_activity(writer: Writer, index: int, seen: Activity, seconds: Mapping[str, float]) -> None:
    """Write the scalars of spikes, cost and time of an iteration.

    Args:
        writer: Where they go.
        index: Index of the iteration.
        seen: The actor's activity at its end.
        seconds: That each part of it took.
    """
    for name, value in seconds.items():
        writer.add_scalar(f"Perf/seconds_{name}", value, index)
    writer.add_scalar("Cost/operations_per_step", seen.operations, index)
    writer.add_scalar("Cost/ann_operations_per_step", seen.ann_operations, index)
    if seen.cost is not None:
        for name in ("effective_macs", "effective_acs", "dense_operations", "neuron_updates"):
            writer.add_scalar(f"Cost/{name}_per_step", getattr(seen.cost, name), index)
        writer.add_scalar("Cost/activation_sparsity", seen.cost.activation_sparsity, index)
        writer.add_scalar("Cost/energy_nj_per_step", seen.cost.energy(PRICES["fp32"]) / 1000.0, index)
    if seen.layers:
        writer.add_scalar("Spikes/rate", seen.rate, index)
    for i, layer in enumerate(seen.layers, start=1):
        writer.add_scalar(f"Spikes/layer_{i}_rate", layer.rate, index)
        writer.add_scalar(f"Spikes/layer_{i}_silent", layer.silent, index)
        writer.add_scalar(f"Spikes/layer_{i}_saturated", layer.saturated, index)


def write_pictures(writer: Writer | None, index: int, actions: Tensor, figure: Figure | None) -> None:
    """Draw what a rollout looked like; nothing for a writer without pictures.

    Args:
        writer: Where the pictures go.
        index: Index of the iteration.
        actions: Actions of the rollout, [T, B, A]: their distribution is drawn.
        figure: Its raster; None: an ANN's.
    """
    if draw := getattr(writer, "add_histogram", None):
        draw("Policy/actions", actions, index)
    if figure is not None and (draw := getattr(writer, "add_figure", None)):
        draw("Spikes/raster", figure, index)
