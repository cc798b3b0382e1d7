"""Activity of a network: firing rates, silent and saturated neurons, and raster plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiky_rl.networks.base import ForwardRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NEURONS, MAX_TRACES = 48, 3
"""Maximum numbers of neurons, and of membrane potentials, that `draw_raster` draws of a layer."""


@dataclass(frozen=True)
class LayerActivity:
    """Activity of one layer over a batch."""

    rate: float
    """Firing rate: mean spikes per neuron and inner step, 0 to 1."""
    silent: float
    """Fraction of neurons that never spiked."""
    saturated: float
    """Fraction of neurons that spiked in every inner step of every sample; a part of a split spike counts as a spike here."""


def compute_layer_activity(record: ForwardRecord) -> list[LayerActivity]:
    """Return the activity of every layer in the pass of ``record``."""
    return [_measure(spikes, record) for spikes in record.layer_spikes]


def compute_mean_rate(layers: Sequence[LayerActivity], record: ForwardRecord) -> float:
    """Return the mean firing rate over all neurons of all ``layers`` of a ``record``."""
    widths = [spikes.shape[-1] for spikes in record.layer_spikes]
    return sum(layer.rate * width for layer, width in zip(layers, widths, strict=True)) / sum(widths)


def compute_rate_by_environment(record: ForwardRecord) -> Tensor:
    """Return the mean firing rate over all neurons of all layers of a ``record`` for every environment, [B]."""
    layers = record.layer_spikes  # [T, K, B, N] each
    counts = torch.stack([_get_spike_counts(spikes, record).sum((0, 1, 3)) for spikes in layers]).sum(0)
    return counts / sum(spikes.numel() // spikes.shape[2] for spikes in layers)


def _measure(spikes: Tensor, record: ForwardRecord) -> LayerActivity:
    fired = (spikes != 0).flatten(0, -2)
    return LayerActivity(
        rate=_get_spike_counts(spikes, record).float().mean().item(),
        silent=(~fired.any(0)).float().mean().item(),
        saturated=fired.all(0).float().mean().item(),
    )


def _get_spike_counts(spikes: Tensor, record: ForwardRecord) -> Tensor:
    """Return the number of spikes of every neuron in every inner step; the parts of a split spike sum to 1."""
    return spikes if record.splits_spikes else spikes != 0


def get_timelines(record: ForwardRecord, stateful: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the spikes and potentials of every layer over all inner steps of one environment, [steps, N] each.

    The record of a ``stateful`` pass is [T, K, 1, N]; a stateless pass has the control steps in its batch, [1, K, T, N].
    """

    def flat(x: Tensor) -> Tensor:
        return (x if stateful else x.transpose(0, 2)).flatten(0, 2)

    return [flat(s) for s in record.layer_spikes], [flat(p) for p in record.potentials]


def draw_raster(spikes: Sequence[Tensor], potentials: Sequence[Tensor], steps: int) -> Figure:
    """Draw ``spikes`` of evenly spaced neurons and ``potentials`` of the most active ones of every layer, [time, N] each.

    ``steps`` is K, the inner steps per control step; a faint line marks each control step.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6 * len(spikes) + 0.6), layout="constrained")
    axes = figure.subplots(
        2 * len(spikes), 1, sharex=True, height_ratios=[3, 1] * len(spikes), squeeze=False
    )[:, 0]
    for i, (fired, potential) in enumerate(zip(spikes, potentials, strict=True)):
        shown = torch.linspace(0, fired.shape[1] - 1, min(MAX_NEURONS, fired.shape[1])).long()
        raster, potential_plot = axes[2 * i], axes[2 * i + 1]
        time, row = fired[:, shown].cpu().nonzero(as_tuple=True)
        raster.scatter(time, row, s=12, marker="|", color="black", linewidths=1.0)
        raster.set(
            ylabel=f"layer {i + 1}\n{len(shown)} of {fired.shape[1]}", ylim=(-1, len(shown)), yticks=[]
        )
        busiest = shown[fired[:, shown].sum(0).cpu().topk(min(MAX_TRACES, len(shown))).indices]
        potential_plot.plot(potential[:, busiest].cpu(), linewidth=0.8)
        potential_plot.set(ylabel="potential")
        for axis in (raster, potential_plot):
            starts = torch.arange(0, fired.shape[0], steps)
            axis.vlines(starts, *axis.get_ylim(), color="0.85", linewidth=0.4, zorder=0)
            axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set(xlabel=f"inner step ({steps} per control step)", xlim=(-0.5, spikes[0].shape[0] - 0.5))
    return figure
