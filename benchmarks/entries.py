"""Networks and contenders of ``bench.py``, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.contenders import (
    Alone,
    AutogradFloor,
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
from benchmarks.jax_contenders import Brainpy, JaxLoop, JaxRecurrent, Spyx
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

FORMS = ("spiky_rl", "eager torch", "compiled", "JAX", "other work")
"""How contenders run, in the order of tables and figures. Other work, such as an MLP's, is outside of the ranking."""


@dataclass(frozen=True)
class Entry:
    """A contender."""

    build: Callable[[Any], Contender]
    package: str = ""
    """Package of a peer. Peers run with the default neuron of their network only."""
    kind: str = "network"
    """Kind of the comparison: network, neuron (without a network), recurrent or reservoir."""
    form: str = "eager torch"
    """One of `FORMS`."""
    quick: bool = True
    """Whether it runs by default."""
    cpu_only: bool = False
    """Whether it runs on the CPU only. On another device it is left out."""
    note: str = ""
    """Remark below the table."""


NETWORKS: dict[str, type[Setting]] = {
    "feedforward": FeedforwardSetting,
    "recurrent": RecurrentSetting,
    "reservoir": ReservoirSetting,
}
_COMPILED = {"form": "compiled", "quick": False}
_LATE = "resets one step later than all others"
_NO_ADAPTATION = "LIF, as it has no adaptive LIF"
_sinabs = partial(LayerByLayer, cell=peers.sinabs, time=1)
_spikingjelly = partial(LayerByLayer, cell=peers.spikingjelly)
_snntorch = partial(StepByStep, cell=peers.snntorch)
_spikingjelly_recurrent = partial(PeerRecurrent, cell=peers.spikingjelly_step)
_snntorch_recurrent = partial(PeerRecurrent, cell=peers.snntorch)


def _make_compiled_builder(build: Callable[[Any], Contender]) -> Callable[[Any], Contender]:
    """Return the builder of a contender that ``build`` makes and torch.compile compiles."""
    return partial(Compiled, build=build)


CONTENDERS = {
    "plain_loop": Entry(PlainLoop),
    "spiky_rl": Entry(Ours, form="spiky_rl"),
    "spiky_rl_f32": Entry(partial(Ours, gradient_precision="float32"), form="spiky_rl"),
    "spiky_rl_recompute": Entry(partial(Ours, recompute=True), form="spiky_rl"),
    "spikingjelly": Entry(_spikingjelly, "spikingjelly"),
    "snntorch": Entry(_snntorch, "snntorch", note=_LATE),
    "norse": Entry(
        partial(StepByStep, cell=peers.norse), "norse", note="own surrogate, gradients through the reset"
    ),
    "sinabs": Entry(_sinabs, "sinabs", note="gradients through the reset"),
    "compiled_plain_loop": Entry(
        _make_compiled_builder(build=PlainLoop),
        **_COMPILED,
        note="torch.compile, one shape at a time, as all compiled ones",
    ),
    "compiled_spikingjelly": Entry(_make_compiled_builder(build=_spikingjelly), "spikingjelly", **_COMPILED),
    "compiled_snntorch": Entry(_make_compiled_builder(build=_snntorch), "snntorch", **_COMPILED, note=_LATE),
    "jax": Entry(JaxLoop, "jax", form="JAX", cpu_only=True, note="jax.jit of the plain loop's mathematics"),
    "dense_floor": Entry(DenseFloor, form="other work", note="matrix products only, no neurons"),
    "autograd_floor": Entry(
        AutogradFloor,
        form="other work",
        quick=False,
        note="an empty autograd function in Python of these weights",
    ),
    "mlp": Entry(Multilayer, form="other work", note="an ELU network of the same widths, no inner steps"),
    "spyx": Entry(
        Spyx,
        "spyx",
        form="other work",
        quick=False,
        cpu_only=True,
        note="spikes before it receives its current: one step of delay per layer, so that XLA drops products",
    ),
    "brainpy": Entry(
        Brainpy,
        "brainpy.state",
        form="other work",
        quick=False,
        cpu_only=True,
        note="own dynamics: exponential Euler, reset one step later, gradients through the reset",
    ),
    "torch_neuron": Entry(partial(Alone, backend="torch"), kind="neuron", quick=False),
    "spiky_rl_neuron": Entry(partial(Alone, backend="auto"), kind="neuron", form="spiky_rl", quick=False),
    "plain_recurrent": Entry(PlainRecurrent, kind="recurrent"),
    "spiky_rl_recurrent": Entry(OurRecurrent, kind="recurrent", form="spiky_rl"),
    "spikingjelly_recurrent": Entry(
        _spikingjelly_recurrent,
        "spikingjelly",
        "recurrent",
        note=f"{_NO_ADAPTATION}; lif_step and a product, faster than its LinearRecurrentContainer",
    ),
    "snntorch_recurrent": Entry(
        _snntorch_recurrent,
        "snntorch",
        "recurrent",
        note=f"{_NO_ADAPTATION}; Leaky and a product, faster than its RLeaky, which computes the same",
    ),
    "norse_recurrent": Entry(
        partial(PeerRecurrent, cell=peers.norse_adaptive),
        package="norse",
        kind="recurrent",
        note="adaptive LIF with its own dynamics; the step of LSNNRecurrentCell on a precomputed current",
    ),
    "compiled_plain_recurrent": Entry(
        _make_compiled_builder(build=PlainRecurrent), kind="recurrent", **_COMPILED
    ),
    "compiled_spikingjelly_recurrent": Entry(
        _make_compiled_builder(build=_spikingjelly_recurrent),
        "spikingjelly",
        "recurrent",
        **_COMPILED,
        note=_NO_ADAPTATION,
    ),
    "compiled_snntorch_recurrent": Entry(
        _make_compiled_builder(build=_snntorch_recurrent),
        "snntorch",
        "recurrent",
        **_COMPILED,
        note=_NO_ADAPTATION,
    ),
    "jax_recurrent": Entry(
        JaxRecurrent,
        "jax",
        "recurrent",
        form="JAX",
        cpu_only=True,
        note="jax.jit, a scan over all inner steps per layer",
    ),
    "plain_reservoir": Entry(PlainReservoir, kind="reservoir"),
    "spiky_rl_reservoir": Entry(OurReservoir, kind="reservoir", form="spiky_rl"),
    "spikingjelly_reservoir": Entry(
        partial(PeerReservoir, cell=peers.spikingjelly_step), "spikingjelly", "reservoir"
    ),
    "snntorch_reservoir": Entry(
        partial(PeerReservoir, cell=peers.snntorch), "snntorch", "reservoir", note=_LATE
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
