"""Networks and contenders of ``bench.py``, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.contenders import (
    Alone,
    Compiled,
    Contender,
    DenseFloor,
    FeedforwardSetting,
    LayerByLayer,
    Multilayer,
    Ours,
    PlainLoop,
    Setting,
    StepByStep,
)
from benchmarks.recurrent_contenders import (
    OurRecurrent,
    OurReservoir,
    PeerRecurrent,
    PeerReservoir,
    PlainRecurrent,
    PlainReservoir,
    RecurrentSetting,
    ReservoirSetting,
)


@dataclass(frozen=True)
class Entry:
    """A contender."""

    build: Callable[[Any], Contender]
    package: str = ""
    """Package of a peer. Peers run with the default neuron of their network only."""
    kind: str = "network"
    """Kind of the comparison: network, neuron (without a network), recurrent or reservoir."""
    quick: bool = True
    """Whether it runs by default."""
    note: str = ""
    """Remark below the table."""


NETWORKS: dict[str, type[Setting]] = {
    "feedforward": FeedforwardSetting,
    "recurrent": RecurrentSetting,
    "reservoir": ReservoirSetting,
}
CONTENDERS = {
    "plain_loop": Entry(PlainLoop),
    "spiky_rl": Entry(Ours),
    "spiky_rl_f32": Entry(partial(Ours, gradient_precision="float32")),
    "spiky_rl_recompute": Entry(partial(Ours, recompute=True)),
    "dense_floor": Entry(DenseFloor, note="matrix products only, no neurons"),
    "compiled": Entry(Compiled, quick=False, note="torch.compile of plain_loop, one shape at a time"),
    "spikingjelly": Entry(partial(LayerByLayer, cell=peers.spikingjelly), "spikingjelly"),
    "snntorch": Entry(
        partial(StepByStep, cell=peers.snntorch), "snntorch", note="resets one step later than all others"
    ),
    "norse": Entry(
        partial(StepByStep, cell=peers.norse), "norse", note="own surrogate, gradients through the reset"
    ),
    "sinabs": Entry(
        partial(LayerByLayer, cell=peers.sinabs, time=1), "sinabs", note="gradients through the reset"
    ),
    "mlp": Entry(Multilayer, note="an ELU network of the same widths, no inner steps"),
    "torch_neuron": Entry(partial(Alone, backend="torch"), kind="neuron", quick=False),
    "spiky_rl_neuron": Entry(partial(Alone, backend="auto"), kind="neuron", quick=False),
    "plain_recurrent": Entry(PlainRecurrent, kind="recurrent"),
    "spiky_rl_recurrent": Entry(OurRecurrent, kind="recurrent"),
    "spikingjelly_recurrent": Entry(
        partial(PeerRecurrent, cell=peers.spikingjelly_step),
        *("spikingjelly", "recurrent"),
        note="LIF, as it has no adaptive LIF; lif_step and a product, faster than its LinearRecurrentContainer",
    ),
    "snntorch_recurrent": Entry(
        partial(PeerRecurrent, cell=peers.snntorch),
        *("snntorch", "recurrent"),
        note="LIF, as it has no adaptive LIF; Leaky and a product, faster than its RLeaky, which computes the same",
    ),
    "norse_recurrent": Entry(
        partial(PeerRecurrent, cell=peers.norse_adaptive),
        *("norse", "recurrent"),
        note="adaptive LIF with its own dynamics; the step of LSNNRecurrentCell on a precomputed current",
    ),
    "plain_reservoir": Entry(PlainReservoir, kind="reservoir"),
    "spiky_rl_reservoir": Entry(OurReservoir, kind="reservoir"),
    "spikingjelly_reservoir": Entry(
        partial(PeerReservoir, cell=peers.spikingjelly_step), "spikingjelly", "reservoir"
    ),
    "snntorch_reservoir": Entry(
        partial(PeerReservoir, cell=peers.snntorch),
        *("snntorch", "reservoir"),
        note="resets one step later than all others",
    ),
    "norse_reservoir": Entry(partial(PeerReservoir, cell=peers.norse), "norse", "reservoir"),
}
REFERENCES = {
    "network": "plain_loop",
    "neuron": "torch_neuron",
    "recurrent": "plain_recurrent",
    "reservoir": "plain_reservoir",
}
"""The reference of the ratios, by kind."""
