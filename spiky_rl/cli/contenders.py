"""What ``bench.py`` times: one network with equal weights, as each library runs it fastest.

All spiking contenders hold their own copy of the same weights, in torch's usual layout, and end in the same leaky readout.
The peers compute the first layer's current once per control step, as their fast users do, and use the state-in, state-out
form where they have one; `PlainLoop` is what everybody writes first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from spiky_rl import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.networks.layer import Parameters

WIDTHS = (60, 400, 200, 100, 8)
ALONE = 256
"""Neurons, where a neuron is timed without a network."""
TARGET = 0.15
"""Firing rate that every layer is scaled to: spikes per neuron and inner step."""
NEURONS = {"lif": {"tau": 2.0, "input_gain": "unit"}}
"""What a neuron is set to here, apart from its defaults; the LIF as in agents/lif_ppo.yaml."""


@dataclass(frozen=True)
class Setting:
    """What all contenders of one comparison have in common."""

    neuron: str
    steps: int
    """K."""
    device: str

    def network(self, **options: Any) -> FeedForward:
        """The network as an agent would name it, freshly drawn. Raises RegistryError for a neuron that does not exist."""
        torch.manual_seed(0)
        settings = {
            "name": "feedforward",
            "layers": list(WIDTHS[1:-1]),
            "steps": self.steps,
            "connection": {"name": "linear", "offset": 0.0},
            "neuron": {"name": self.neuron, **NEURONS.get(self.neuron, {})},
            **options,
        }
        built = registry.configure("networks", settings, "network")
        return built.build(inputs=WIDTHS[0], outputs=WIDTHS[-1]).to(self.device)

    @cached_property
    def reference(self) -> FeedForward:
        """The network whose weights all contenders take: every layer scaled until it fires at `TARGET`."""
        network, x = self.network(), self.observations(64)
        signal = network.encoder(x.unsqueeze(0))
        with torch.no_grad():
            for layer in network.layers:
                current = layer.connection(signal)
                gain = fitting_gain(current, self.run_neuron(layer.neuron, layer.parameters_of_neuron()))
                for parameter in layer.connection.parameters():
                    parameter.mul_(gain)
                signal = self.run_neuron(layer.neuron, layer.parameters_of_neuron())(gain * current)
        return network

    def run_neuron(self, neuron: Any, values: tuple[Any, ...], backend: str = "auto") -> Callable[[Tensor], Tensor]:
        """Currents [1, K or 1, B, N] -> outputs [1, K, B, N], from rest."""
        ops = TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build())
        return lambda current: dispatch.unroll(backend, neuron, ops, current, self.steps, None, values)[0]

    def observations(self, batch: int) -> Tensor:
        """Normalised, as a policy sees them: [B, O]."""
        return torch.randn(batch, WIDTHS[0], generator=torch.Generator().manual_seed(1)).to(self.device)

    def currents(self, batch: int) -> Tensor:
        """Noise at which the neuron alone fires at `TARGET`: [1, K, B, N]."""
        noise = torch.randn(1, self.steps, batch, ALONE, generator=torch.Generator().manual_seed(1))
        noise = noise.to(self.device)
        neuron = self.reference.layers[0].neuron  # type: ignore[index]
        run = self.run_neuron(neuron, Parameters(neuron, ALONE)())
        return (fitting_gain(noise[:, :, :64], run) * noise).requires_grad_()

    @torch.no_grad()
    def rates(self, x: Tensor) -> list[float]:
        """Firing rate of every hidden layer for observations [B, O]."""
        found, signal = [], self.reference.encoder(x.unsqueeze(0))
        ops = TorchOps(self.reference.surrogate)
        for layer in self.reference.layers:
            signal, _ = layer(ops, signal, self.steps, None, None, None)
            found.append(firing_rate(signal))
        return found


def firing_rate(outputs: Tensor) -> float:
    """Outputs per neuron and step that are not zero."""
    return (outputs != 0).float().mean().item()


@torch.no_grad()
def fitting_gain(current: Tensor, run: Callable[[Tensor], Tensor]) -> float:
    """The factor of the current at which the firing rate comes nearest to `TARGET`: octaves first, then eighths of one."""

    def distance(gain: float) -> float:
        return abs(firing_rate(run(gain * current)) - TARGET)

    octave = min((2.0**k for k in range(-6, 15)), key=distance)
    return min((octave * 2.0 ** (k / 8) for k in range(-8, 9)), key=distance)


class Contender(torch.nn.Module):
    """Observations [B, O] -> features [B, F]. Inference is a call under ``torch.inference_mode()``."""

    comparable: bool = True
    """Whether it computes what the reference computes, so that outputs and gradients may be compared."""

    def prepare(self) -> None:
        """Called before each batch size and mode."""

    def learn(self, x: Tensor) -> None:
        """One forward and backward pass, with fresh gradients."""
        self.zero_grad()
        self(x).pow(2).mean().backward()

    def gradient(self, x: Tensor) -> Tensor:  # pylint: disable=unused-argument
        """That of the last pass, of all weights in one row."""
        return torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])


class Ours(Contender):
    """The network of this package."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__()
        self.network = setting.network(**options)
        self.network.load_state_dict(setting.reference.state_dict())

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.network(x.unsqueeze(0), None)[0].squeeze(0)


class Copy(Contender):
    """Linear layers with the reference's weights, in torch's layout, and its readout."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        network = setting.reference
        self.steps = setting.steps
        self.neurons = [layer.neuron for layer in network.layers]
        self.values = [layer.parameters_of_neuron() for layer in network.layers]
        self.ops = TorchOps(network.surrogate)
        self.links = torch.nn.ModuleList(_copy(layer.connection) for layer in network.layers)
        self.readout = _copy(network.decoder.readout)
        self.leak: float = network.decoder.decay  # type: ignore[assignment]

    def read(self, v: Tensor | None, drive: Tensor) -> Tensor:
        """The readout's potential after one more step; ``drive`` is the weighted sum of the spikes."""
        drive = (1.0 - self.leak) * drive
        return drive if v is None else self.leak * v + drive


class PlainLoop(Copy):
    """As everybody writes it: all layers inside one loop over the inner steps, autograd, a lean surrogate."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        states = [
            tuple(x.new_zeros(x.shape[0], width) for _ in neuron.states)
            for neuron, width in zip(self.neurons, WIDTHS[1:-1], strict=True)
        ]
        v = None
        for _ in range(self.steps):
            s = x
            for i, link in enumerate(self.links):
                s, states[i] = self.neurons[i].step(self.ops, link(s), *states[i], *self.values[i])
            v = self.read(v, linear(s, self.readout.weight))
        return v + self.readout.bias  # type: ignore[operator]


class Compiled(Contender):
    """torch.compile of the plain loop, for one shape at a time: that is when it is fastest."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.loop = PlainLoop(setting)
        self.prepare()

    def prepare(self) -> None:  # noqa: D102
        torch._dynamo.reset()  # else the ninth shape runs uncompiled # pylint: disable=protected-access
        self.run = torch.compile(self.loop, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.run(x)


class DenseFloor(Contender):
    """Only the f32 matrix products that a dense network must do, into buffers that are there already.

    Training: the forward products, and per layer one for the weights' gradient and one for the input's, except the first
    layer's input. The first layer runs once per control step, the others on K * B rows.
    """

    comparable = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.steps, weights = setting.steps, Copy(setting)
        self.weights = [link.weight.detach() for link in (*weights.links, weights.readout)]
        self.buffers: list[tuple[Tensor, ...]] = []

    def rows(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """Per layer: weight, input, output, gradient of the weight, gradient of the input."""
        if not self.buffers or self.buffers[0][1] is not x:
            rows, self.buffers = x, []
            for weight in self.weights:
                out = rows @ weight.T
                self.buffers.append((weight, rows, out, torch.empty_like(weight), torch.empty_like(rows)))
                rows = (torch.rand(self.steps * len(x), len(weight), device=x.device) < TARGET).float()
        return self.buffers

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for weight, rows, out, _, _ in self.rows(x):
            torch.mm(rows, weight.T, out=out)
        return self.buffers[-1][2]

    @torch.inference_mode()
    def learn(self, x: Tensor) -> None:  # noqa: D102
        self(x)
        for i, (weight, rows, out, of_weight, of_rows) in enumerate(self.buffers):
            torch.mm(out.T, rows, out=of_weight)
            if i > 0:
                torch.mm(out, weight, out=of_rows)

    def gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.buffers[0][3]


class Multilayer(Contender):
    """The ANN in its place: an ELU network of the same widths."""

    comparable = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        layers = [module for pair in Copy(setting).links for module in (pair, torch.nn.ELU())]
        self.network = torch.nn.Sequential(*layers, _copy(setting.reference.decoder.readout))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.network(x)


class SpikingJelly(Copy):
    """SpikingJelly's LIF in its multi-step form, layer by layer; the implementation is chosen by device (Triton on GPUs)."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        from spikingjelly.activation_based import functional, surrogate

        self.lif, self.surrogate = functional.lif_multi_step, surrogate.ATan(alpha=self.ops.slope)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        signal = x
        for i, link in enumerate(self.links):
            decay, threshold = self.values[i]
            current = link(signal)
            if i == 0:
                current = current.expand(self.steps, *current.shape)
            rest, tau = torch.zeros_like(current[0]), 1.0 / (1.0 - decay)
            signal, _, _ = self.lif(current, rest, tau, False, threshold, None, self.surrogate, True)
        return self.unroll_readout(linear(signal, self.readout.weight))

    def unroll_readout(self, drives: Tensor) -> Tensor:
        """[K, B, F] -> [B, F]."""
        v = None
        for drive in drives.unbind():
            v = self.read(v, drive)
        return v + self.readout.bias  # type: ignore[operator]


class Sinabs(SpikingJelly):
    """sinabs' LIF over time, layer by layer, at most one spike per step. It keeps time second: [B, K, N]."""

    def __init__(self, setting: Setting) -> None:
        Copy.__init__(self, setting)
        activation = importlib.import_module("sinabs.activation")
        self.lif = importlib.import_module("sinabs.layers.functional").lif_forward
        self.spike, self.reset = activation.SingleSpike, activation.MembraneSubtract()
        surrogate, ops = self.ops.surrogate, self.ops
        self.derivative = lambda v, threshold: surrogate.derivative(ops, v - threshold, ops.slope)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        signal = x
        for i, link in enumerate(self.links):
            decay, threshold = self.values[i]
            current = link(signal)
            if i == 0:
                current = current.unsqueeze(1).expand(-1, self.steps, -1)
            rest = {"v_mem": torch.zeros_like(current[:, 0])}
            signal, _, _ = self.lif(
                *(current, decay, None, rest, threshold, self.spike, self.reset),
                *(self.derivative, None, False),
            )
        return self.unroll_readout(linear(signal, self.readout.weight).transpose(0, 1))


class StepByStep(Copy):
    """A peer that has single steps only: all layers in one loop, the first layer's current computed before it."""

    def step(self, i: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Current [B, N] and state of layer i -> spikes and state."""
        raise NotImplementedError

    def rest(self, i: int, current: Tensor) -> Any:
        """State of layer i before the first step."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        first, v = self.links[0](x), None
        states: list[Any] = [None] * len(self.links)
        for k in range(self.steps):
            current = first
            for i, following in enumerate((*self.links[1:], None)):
                state = self.rest(i, current) if k == 0 else states[i]
                s, states[i] = self.step(i, current, state)
                current = linear(s, self.readout.weight) if following is None else following(s)
            v = self.read(v, current)
        return v + self.readout.bias  # type: ignore[operator]


class SnnTorch(StepByStep):
    """snnTorch's Leaky with its own dynamics: it resets one step later than all others and spikes above the threshold only."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        import snntorch
        from snntorch import surrogate

        gradient = surrogate.atan(alpha=self.ops.slope)
        self.cells = [
            snntorch.Leaky(beta=decay, threshold=threshold, spike_grad=gradient).to(setting.device)
            for decay, threshold in self.values
        ]

    def rest(self, i: int, current: Tensor) -> Tensor:  # noqa: D102
        return torch.zeros_like(current)

    def step(self, i: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: D102
        return self.cells[i](current, state)


class Norse(StepByStep):
    """Norse's LIF without synaptic current, with its own surrogate (SuperSpike).

    It scales the input by 1 - decay; the threshold is scaled likewise, so that it spikes where the others do.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        lif_box = importlib.import_module("norse.torch.functional.lif_box")
        reset = importlib.import_module("norse.torch.functional.reset")
        self.cell, self.state = lif_box.lif_box_feed_forward_step, lif_box.LIFBoxFeedForwardState
        self.settings = [
            lif_box.LIFBoxParameters(
                tau_mem_inv=1.0 - decay,
                v_leak=0.0,
                v_th=threshold * (1.0 - decay),
                v_reset=0.0,
                alpha=torch.tensor(self.ops.slope / (1.0 - decay), device=setting.device),
                reset_method=reset.reset_subtract,
            )
            for decay, threshold in self.values
        ]

    def rest(self, i: int, current: Tensor) -> Any:  # noqa: D102
        return self.state(v=torch.zeros_like(current))

    def step(self, i: int, current: Tensor, state: Any) -> tuple[Tensor, Any]:  # noqa: D102
        return self.cell(current, state, self.settings[i], 1.0)


class Alone(Contender):
    """A neuron without a network: currents [1, K, B, N] -> outputs [1, K, B, N]."""

    def __init__(self, setting: Setting, backend: str) -> None:
        super().__init__()
        neuron = setting.reference.layers[0].neuron  # type: ignore[index]
        self.run = setting.run_neuron(neuron, Parameters(neuron, ALONE)(), backend)
        self.upstream = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.run(x)

    def learn(self, x: Tensor) -> None:  # noqa: D102
        out = self(x)
        if self.upstream.shape != out.shape:
            self.upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.device)
        (self.of_current,) = torch.autograd.grad(out, x, self.upstream)

    def gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.of_current.flatten()


def _copy(link: Any) -> torch.nn.Linear:
    """A linear layer with these weights, in torch's layout."""
    found = torch.nn.Linear(link.in_features, link.out_features, device=link.weight.device)
    found.load_state_dict({"weight": link.weight, "bias": link.bias})
    return found


@dataclass(frozen=True)
class Entry:
    """A contender's line in the table."""

    build: Callable[[Setting], Contender]
    package: str = ""
    """What must be installed for it."""
    only: str = ""
    """The one neuron it has."""
    alone: bool = False
    """Whether it is a neuron without a network."""
    quick: bool = True
    """Whether it runs without being named."""
    note: str = ""
    """What its numbers must be read with."""


CONTENDERS = {
    "plain_loop": Entry(PlainLoop),
    "spiky_rl": Entry(Ours),
    "spiky_rl_f32": Entry(lambda setting: Ours(setting, gradient_precision="float32")),
    "spiky_rl_recompute": Entry(lambda setting: Ours(setting, recompute=True)),
    "dense_floor": Entry(DenseFloor, note="matrix products alone, no neurons"),
    "compiled": Entry(Compiled, quick=False, note="torch.compile of plain_loop, one shape at a time"),
    "spikingjelly": Entry(SpikingJelly, "spikingjelly", "lif"),
    "snntorch": Entry(SnnTorch, "snntorch", "lif", note="its own dynamics: resets one step late"),
    "norse": Entry(Norse, "norse", "lif", note="its own surrogate gradient"),
    "sinabs": Entry(Sinabs, "sinabs", "lif"),
    "mlp": Entry(Multilayer, note="an ELU network of the same widths, no inner steps"),
    "torch_neuron": Entry(lambda setting: Alone(setting, "torch"), alone=True, quick=False),
    "spiky_rl_neuron": Entry(lambda setting: Alone(setting, "auto"), alone=True, quick=False),
}
REFERENCES: Sequence[str] = ("plain_loop", "torch_neuron")
"""What ratios are relative to: the network's, the lone neuron's."""
