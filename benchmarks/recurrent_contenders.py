"""Recurrent contenders of ``bench.py``: two recurrent layers trained through time, and a fixed reservoir with a trained readout.

All contenders have their own copy of the same weights, and compute the first layer's current once per control step. The peers run one
layer over the whole sequence before the next layer, so that every map except the recurrent ones is a single product, and add the
recurrent product to the current in one call (``addmm``), which is their fastest form. `PlainRecurrent` and `PlainReservoir` are the
straightforward implementations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks import peers
from benchmarks.contenders import (
    Contender,
    Copy,
    Setting,
    Step,
    copy_linear,
    find_gain,
    measure_rate,
    to_output_major,
)
from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.networks.reservoir import Reservoir

ALIF = {"tau": 2.0, "input_gain": "unit", "tau_adaptation": 20.0, "adaptation": 0.2}
"""Options as in agents/alif_recurrent_ppo.yaml; other neurons have their defaults."""
LIF = {"tau": 20.0, "input_gain": "ode"}
"""Options as in agents/lif_reservoir_ppo.yaml; `RATE` and the graph are from there too."""
RATE = 25.0
"""Target rate of a reservoir in Hz."""
CALIBRATION_SAMPLES = 64
"""Number of samples for setting the firing rate of recurrent layers."""


class SequenceSetting(Setting):
    """A setting with networks that carry their state over `control_steps`."""

    def make_inputs(self, kind: str, batch: int) -> Tensor:
        return self.make_observations(batch)

    def make_observations(self, batch: int) -> Tensor:
        """Return normalised observations [T, B, O], new ones in every control step."""
        shape = (self.control_steps, batch, self.widths[0])
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)


class RecurrentSetting(SequenceSetting):
    """Recurrent layers, trained by backpropagation through all inner steps of all control steps."""

    kinds = ("recurrent",)
    widths = (60, 128, 128, 8)
    usual_neuron = "alif"
    usual_steps = (4,)

    def build_network(self) -> FeedForward:
        """Build the network with new weights; every neuron is connected to all neurons of its layer, including itself."""
        torch.manual_seed(0)
        options = {
            "layers": list(self.widths[1:-1]),
            "steps": self.steps,
            "stateful": True,
            "neuron": {"name": self.neuron, **(ALIF if self.neuron == "alif" else {})},
            "connection": {"offset": 0.0},
            "recurrent": {"name": "recurrent", "gain": 0.5, "self_connections": True},
            "surrogate": {"name": "arctangent", "slope": 2.0},
        }
        built = registry.configure("networks", {"name": "feedforward", **options}, "network")
        return built.build(inputs=self.widths[0], outputs=self.widths[-1]).to(self.device)

    @cached_property
    def reference(self) -> FeedForward:
        """The network with the weights of all contenders; the input of every layer is scaled to the firing rate."""
        network = self.build_network()
        ops = TorchOps(network.surrogate)
        signal = network.encoder(self.make_observations(CALIBRATION_SAMPLES))
        with torch.no_grad():
            for layer in network.layers:
                current, run = layer.connection(signal), partial(self._run, layer, ops)
                gain = find_gain(current, run, self.rate)
                for parameter in layer.connection.parameters():
                    parameter.mul_(gain)
                signal = run(gain * current)
        return network

    def _run(self, layer: SpikingLayer, ops: TorchOps, current: Tensor) -> Tensor:
        assert layer.loop is not None and layer.recurrent is not None
        recurrence = {"feedback": layer.loop, "synapses": layer.recurrent.synapses()}
        values = layer.parameters_of_neuron()
        return dispatch.unroll("auto", layer.neuron, ops, current, self.steps, None, values, **recurrence)[0]

    @torch.no_grad()
    def measure_rates(self, kind: str, x: Tensor) -> list[float]:
        rates, signal, ops = [], self.reference.encoder(x), TorchOps(self.reference.surrogate)
        for layer in self.reference.layers:
            signal, _ = layer(ops, signal, self.steps, None, None, None)  # no state, no reset, no record
            rates.append(measure_rate(signal))
        return rates


class ReservoirSetting(SequenceSetting):
    """A fixed reservoir; training runs it without gradients, and its readout forward and backward."""

    kinds = ("reservoir",)
    sets_rate = False
    widths = (60, 256, 8)
    usual_neuron = "lif"
    usual_steps = (10,)

    @cached_property
    def reference(self) -> Reservoir:
        """The calibrated network with the weights of all contenders."""
        torch.manual_seed(0)
        options = {
            "size": self.widths[1],
            "steps": self.steps,
            "target_rate": RATE,
            "seed": 0,
            "graph": {"name": "maass"},
            "neuron": {"name": self.neuron, **(LIF if self.neuron == "lif" else {})},
        }
        built = registry.configure("networks", {"name": "reservoir", **options}, "network")
        return built.build(inputs=self.widths[0], outputs=self.widths[-1]).to(self.device)

    @torch.no_grad()
    def measure_rates(self, kind: str, x: Tensor) -> list[float]:
        record = ForwardRecord()
        self.reference(x, None, record=record)
        return [measure_rate(record.signals[1])]


class OurRecurrent(Contender):
    """Recurrent layers of this package."""

    def __init__(self, setting: RecurrentSetting) -> None:
        super().__init__()
        self.network = setting.build_network()
        self.network.load_state_dict(setting.reference.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, None)[0]

    def get_gradient(self) -> Tensor:
        links = [*(layer.connection for layer in self.network.layers), self.network.decoder.readout]
        parts = [part for link in links for part in (to_output_major(link, link.weight.grad), link.bias.grad)]
        parts += [layer.recurrent.weight.grad.t() for layer in self.network.layers]  # type: ignore[union-attr]
        return torch.cat([part.flatten() for part in parts])


class RecurrentCopy(Copy):
    """Linear maps, recurrent maps [N, N] and the readout, with the reference's weights in torch's layout."""

    def __init__(self, setting: RecurrentSetting) -> None:
        super().__init__(setting)
        synapses = [layer.recurrent.synapses() for layer in setting.reference.layers]  # type: ignore[union-attr]
        self.recurrent_weights = torch.nn.ParameterList(
            weight.detach().t().contiguous() for weight in synapses
        )


class PlainRecurrent(RecurrentCopy):
    """The straightforward implementation: all layers in one loop over all inner steps, with autograd and a cheap surrogate."""

    def forward(self, x: Tensor) -> Tensor:
        spikes = [x.new_zeros(x.shape[1], len(weight)) for weight in self.recurrent_weights]
        states = [self.neuron.named_states(*[zeros] * len(self.neuron.states)) for zeros in spikes]
        readout_potential, features = None, []
        for current in self.links[0](x):
            for _ in range(self.steps):
                for i, (link, weight) in enumerate(zip(self.links, self.recurrent_weights, strict=True)):
                    drive = (current if i == 0 else link(spikes[i - 1])) + linear(spikes[i], weight)
                    spikes[i], states[i] = self.step(self.ops, drive, states[i], self.values)
                readout_potential = self.read(readout_potential, linear(spikes[-1], self.readout.weight))
            features.append(readout_potential)
        return torch.stack(features) + self.readout.bias


class PeerRecurrent(RecurrentCopy):
    """Another library's layers; each runs over all steps before the next starts.

    The library's cell computes one step: (current, state) -> (spikes, state), [B, N] each.
    """

    comparable = False

    def __init__(self, setting: RecurrentSetting, cell: Callable[..., peers.Cell]) -> None:
        super().__init__(setting)
        self.cell = cell(self, *self.values)

    def forward(self, x: Tensor) -> Tensor:
        currents = [current for current in self.links[0](x) for _ in range(self.steps)]
        spikes: list[Tensor] = []
        for i, weight in enumerate(self.recurrent_weights):
            if i > 0:
                currents = self.links[i](torch.stack(spikes)).unbind(0)
            last = state = x.new_zeros(x.shape[1], len(weight))
            transposed, spikes = weight.t(), []
            for current in currents:
                last, state = self.cell(torch.addmm(current, last, transposed), state)
                spikes.append(last)
        readout_potential, features = None, []
        for step, drive in enumerate(linear(torch.stack(spikes), self.readout.weight), 1):
            readout_potential = self.read(readout_potential, drive)
            if step % self.steps == 0:
                features.append(readout_potential)
        return torch.stack(features) + self.readout.bias


class OurReservoir(Contender):
    """A reservoir of this package."""

    def __init__(self, setting: ReservoirSetting) -> None:
        super().__init__()
        self.network = setting.reference

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, None)[0]


class ReservoirCopy(Contender):
    """The reference's weights in torch's layout, without gradients, and its readout of standardised traces."""

    recurrent_weight: Tensor
    input_weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, setting: ReservoirSetting) -> None:
        super().__init__()
        network = setting.reference
        self.steps, self.neuron, self.ops = network.steps, network.neuron, network.ops
        self.step: Step = network.neuron.step  # type: ignore[assignment]
        self.values = network.neuron.named_params(*network.parameters_of_neuron())
        assert network.feedback.decay is not None
        self.synapse, self.trace = network.feedback.decay, network.trace_decays[0]
        self.register_buffer("input_weight", network.input_weight.detach().t().contiguous())
        self.register_buffer("recurrent_weight", network.weight.t().contiguous())
        for name in ("bias", "mean", "deviation"):
            self.register_buffer(name, network.get_buffer(name).clone())
        self.readout = copy_linear(network.readout)

    @abstractmethod
    def compute_traces(self, x: Tensor) -> Tensor:
        """Return every neuron's trace after each control step, [T, B, N], for observations [T, B, O]."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            traces = (self.compute_traces(x) - self.mean) / self.deviation
        return self.readout(traces)


class PlainReservoir(ReservoirCopy):
    """The straightforward implementation."""

    def compute_traces(self, x: Tensor) -> Tensor:
        synaptic_current = spikes = trace = x.new_zeros(x.shape[1], len(self.recurrent_weight))
        states = self.neuron.named_states(*[spikes] * len(self.neuron.states))
        traces = []
        for current in linear(x, self.input_weight, self.bias):
            for _ in range(self.steps):
                synaptic_current = self.synapse * synaptic_current + linear(spikes, self.recurrent_weight)
                spikes, states = self.step(self.ops, current + synaptic_current, states, self.values)
                trace = self.trace * trace + (1.0 - self.trace) * spikes
            traces.append(trace)
        return torch.stack(traces)


class PeerReservoir(ReservoirCopy):
    """Another library's LIF, with synapses and traces that are updated in place.

    The library's cell computes one step: (current, potential) -> (spikes, potential), [B, N] each.
    """

    def __init__(self, setting: ReservoirSetting, cell: Callable[..., peers.Cell]) -> None:
        super().__init__(setting)
        decay, threshold = (float(value) for value in setting.reference.parameters_of_neuron())
        # the cells do not scale their input by 1 - decay, so potentials and threshold are larger by that factor
        self.cell = cell(self, decay, threshold / (1.0 - decay))

    def compute_traces(self, x: Tensor) -> Tensor:
        spikes = v = x.new_zeros(x.shape[1], len(self.recurrent_weight))
        synaptic_current, trace, transposed = (
            torch.zeros_like(v),
            torch.zeros_like(v),
            self.recurrent_weight.t(),
        )
        traces = x.new_empty(len(x), *v.shape)
        for current, row in zip(linear(x, self.input_weight, self.bias), traces, strict=True):
            for _ in range(self.steps):
                torch.addmm(synaptic_current, spikes, transposed, beta=self.synapse, out=synaptic_current)
                spikes, v = self.cell(current + synaptic_current, v)
                trace.lerp_(spikes, 1.0 - self.trace)
            row.copy_(trace)
        return traces
