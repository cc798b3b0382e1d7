"""Activity of a policy: spikes, operations and spike rasters, for all learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spiky_rl.learners.common.interfaces import ScalarWriter
from spiky_rl.metrics.energy import ENERGY_MODELS, InferenceCost
from spiky_rl.metrics.meter import CostMeter, make_meter, measure_ann
from spiky_rl.metrics.spikes import (
    LayerActivity,
    compute_layer_activity,
    compute_mean_rate,
    compute_rate_by_environment,
    draw_raster,
    get_timelines,
)
from spiky_rl.metrics.synops import dense_operations, count_operations_by_environment
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork, State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MEASURED_ENVS = 512
"""Maximum number of environments in which the activity of a rollout is measured."""


@dataclass(frozen=True)
class PolicyActivity:
    """Activity and cost of a model per control step."""

    layers: list[LayerActivity]
    rate: float
    """Firing rate: mean spikes per neuron and inner step; 0 for an ANN."""
    operations: float
    """Effective synaptic operations per control step; multiply-accumulates for an ANN."""
    ann_operations: float
    """Multiply-accumulates of the ANN that the spiking network replaces; ``operations`` for an ANN."""
    cost: InferenceCost | None
    """Cost of the control step by kind of operation; None for a foreign network with unknown connections."""
    rates: Tensor
    """``rate`` of every environment, [B]."""
    operations_each: Tensor
    """``operations`` of every environment, [B]."""


def compute_ann_activity(
    model: nn.Module, body: nn.Module, run: Callable[[], object], samples: int
) -> PolicyActivity:
    """Return the activity of an ANN ``model``; ``run`` is called once and must send ``samples`` observations through its ``body``."""
    operations = dense_operations(model)
    return PolicyActivity(
        layers=[],
        rate=0.0,
        operations=operations,
        ann_operations=operations,
        cost=measure_ann(body, run, samples),
        rates=torch.zeros(samples),
        operations_each=torch.full((samples,), float(operations)),
    )


def compute_activity(
    network: SpikingNetwork,
    x: Tensor,
    state: State | None,
    ann_operations: float,
    meter: CostMeter | None = None,
) -> PolicyActivity:
    """Return the activity of a network in one control step with the input ``x`` [B, O] and the ``state`` before it (None for zero).

    ``ann_operations`` are the multiply-accumulates of the ANN that the network replaces. A ``meter`` of the network is valid until its
    weights change; None makes a new one.
    """
    record = record_step(network, x, state)
    layers = compute_layer_activity(record)
    meter = meter or make_meter(network)
    cost, connections = (None, None) if meter is None else (meter(record), meter.connections)
    operations_each = count_operations_by_environment(record, connections)
    return PolicyActivity(
        layers=layers,
        rate=compute_mean_rate(layers, record),
        operations=operations_each.mean().item(),
        ann_operations=ann_operations,
        cost=cost,
        rates=compute_rate_by_environment(record),
        operations_each=operations_each,
    )


def record_step(network: SpikingNetwork, x: Tensor, state: State | None) -> ForwardRecord:
    """Return the record of one control step for the input ``x`` [B, O].

    It starts from ``state``, or from the zero state if that is None. A stateless network gets no state, as where it acts: with one, an
    encoder such as `delta` may send other events.
    """
    record = ForwardRecord()
    if network.stateful and state is None:
        state = network.zero_state(x.shape[0], x)
    with torch.no_grad():
        network(x.unsqueeze(0), state, record=record)
    return record


def draw_rollout_raster(network: SpikingNetwork, x: Tensor, state: State | None, dones: Tensor) -> Figure:
    """Return spike raster and membrane traces of one environment's rollout as a matplotlib figure.

    The rollout has inputs ``x`` [T, 1, O], the ``state`` before it (None for zero), and the ends of episodes ``dones`` [T].
    """
    episode_starts = torch.roll(dones > 0, 1, 0)
    episode_starts[0] = False
    record, _ = record_steps(network, x, state, episode_starts)
    return draw_raster(*get_timelines(record, network.stateful), network.steps)


def record_steps(
    network: SpikingNetwork, x: Tensor, state: State | None, episode_starts: Tensor
) -> tuple[ForwardRecord, State | None]:
    """Return the record of one environment's control steps and the state after them, or None for a stateless network.

    The steps have inputs ``x`` [T, 1, O] and the ``state`` before them. An episode starts from the zero state where ``episode_starts``
    [T] is true.
    """
    record = ForwardRecord()
    with torch.no_grad():
        if not network.stateful:
            network(x.transpose(0, 1), None, record=record)
            return record, None
        keep = 1.0 - episode_starts.float().view(-1, 1)
        _, after = network(x, state or network.zero_state(1, x), keep=keep, record=record)
    return record, after


def write_activity(
    writer: ScalarWriter, index: int, activity: PolicyActivity, seconds: Mapping[str, float]
) -> None:
    """Write the scalars of iteration ``index``: the actor's spikes and cost at its end, and the ``seconds`` of each part by name."""
    for name, value in seconds.items():
        writer.add_scalar(f"Perf/seconds_{name}", value, index)
    writer.add_scalar("Cost/operations_per_step", activity.operations, index)
    writer.add_scalar("Cost/ann_operations_per_step", activity.ann_operations, index)
    if activity.cost is not None:
        for name in ("effective_macs", "effective_acs", "dense_operations", "neuron_updates"):
            writer.add_scalar(f"Cost/{name}_per_step", getattr(activity.cost, name), index)
        writer.add_scalar("Cost/activation_sparsity", activity.cost.activation_sparsity, index)
        writer.add_scalar(
            "Cost/energy_nj_per_step", activity.cost.compute_energy(ENERGY_MODELS["fp32"]) / 1000.0, index
        )
    if activity.layers:
        writer.add_scalar("Spikes/rate", activity.rate, index)
    for i, layer in enumerate(activity.layers, start=1):
        writer.add_scalar(f"Spikes/layer_{i}_rate", layer.rate, index)
        writer.add_scalar(f"Spikes/layer_{i}_silent", layer.silent, index)
        writer.add_scalar(f"Spikes/layer_{i}_saturated", layer.saturated, index)


def write_figures(writer: ScalarWriter | None, index: int, actions: Tensor, figure: Figure | None) -> None:
    """Write histogram of the ``actions`` [T, B, A] and raster (None for an ANN) of a rollout; do nothing for a writer without figures."""
    add_histogram = getattr(writer, "add_histogram", None)
    if add_histogram is not None:
        add_histogram("Policy/actions", actions, index)
    add_figure = getattr(writer, "add_figure", None)
    if figure is not None and add_figure is not None:
        add_figure("Spikes/raster", figure, index)
