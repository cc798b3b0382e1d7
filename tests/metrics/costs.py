"""What samples cost a spiking network."""

import torch
from torch import Tensor

from spiky_rl.metrics.energy import Cost
from spiky_rl.metrics.meter import Meter
from spiky_rl.networks.base import Record, SpikingNetwork, State


def of_network(network: SpikingNetwork, x: Tensor, state: State | None = None) -> Cost:
    """The cost of one of the samples [T, B, O]: all T control steps, as a mean over B."""
    record = Record()
    with torch.no_grad():
        network(x, state, None, record)
    return Meter(network)(record).times(x.shape[0])
