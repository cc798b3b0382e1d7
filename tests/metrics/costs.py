"""What samples cost a spiking network."""

import torch
from torch import Tensor

from spiky_rl.metrics.energy import InferenceCost
from spiky_rl.metrics.meter import CostMeter
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork, State


def of_network(network: SpikingNetwork, x: Tensor, state: State | None = None) -> InferenceCost:
    """The cost of one of the samples [T, B, O]: all T control steps, as a mean over B."""
    record = ForwardRecord()
    with torch.no_grad():
        network(x, state, None, record)
    return CostMeter(network)(record).scale(x.shape[0])
