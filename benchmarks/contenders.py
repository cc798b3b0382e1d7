"""Feed-forward contenders of ``bench.py``: one network with equal weights, in the fastest form of each library.

All spiking contenders have their own copy of the same weights, in torch's usual layout, and the same leaky readout. The peers compute
the first layer's current once per control step, and use their functional form with explicit state if they have one. `PlainLoop` is the
straightforward implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks import peers
from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.neurons.base import Params, States

if TYPE_CHECKING:
    from benchmarks.recurrent_contenders import RecurrentSetting

WIDTHS = (60, 400, 200, 100, 8)
LONE_NEURONS = 256
"""Number of neurons in the benchmark without a network."""
RATE = 0.15
"""Usual firing rate to which every layer is scaled: spikes per neuron and inner step."""
LIF = {"tau": 2.0, "input_gain": "unit"}
"""Options as in agents/lif_ppo.yaml; other neurons have their defaults."""

Run = Callable[[Tensor], Tensor]
"""A function from currents to outputs."""
Step = Callable[[TorchOps, Tensor, States, Params], tuple[Tensor, States]]
"""A neuron's step on tensors."""


@dataclass(frozen=True)
class Setting(ABC):
    """The setting that all contenders of one comparison share."""

    neuron: str
    steps: int
    """K."""
    device: str
    control_steps: int = 1
    """T."""
    rate: float = RATE
    """Firing rate to which layers are scaled; a reservoir has the rate of its agent instead."""

    kinds: ClassVar[tuple[str, ...]]
    """Kinds of contenders in the comparison; each kind has its reference."""
    widths: ClassVar[tuple[int, ...]]
    """Observations, neurons of the hidden layers, features."""
    usual_neuron: ClassVar[str]
    """Default neuron; the peers run with this one only."""
    usual_steps: ClassVar[tuple[int, ...]]
    """Defaults of K."""
    sets_rate: ClassVar[bool] = True
    """Whether its layers are scaled to a firing rate."""
    has_sequences: ClassVar[bool] = True
    """Whether it runs over `control_steps`; otherwise T is 1."""

    @abstractmethod
    def make_inputs(self, kind: str, batch: int) -> Tensor:
        """Return the input of contenders of a kind."""

    @abstractmethod
    def measure_rates(self, kind: str, x: Tensor) -> list[float]:
        """Return the firing rates of every hidden layer in the reference for its input ``x``."""

    @property
    def values_per_sample(self) -> int:
        """Minimum number of values that a contender holds for a sample of the batch."""
        return self.control_steps * (self.steps if self.has_sequences else 1) * sum(self.widths)

    @classmethod
    def format_widths(cls) -> str:
        """Return the widths as text."""
        return "-".join(map(str, cls.widths))


class FeedforwardSetting(Setting):
    """A feed-forward network, one control step at a time, and the neuron without a network."""

    kinds = ("network", "neuron")
    widths = WIDTHS
    usual_neuron = "lif"
    usual_steps = (4, 5, 16)
    has_sequences = False

    def build_network(self, **options: Any) -> FeedForward:
        """Build the network with new weights. Raises RegistryError for an unknown neuron."""
        torch.manual_seed(0)
        neuron = {"name": self.neuron, **(LIF if self.neuron == "lif" else {})}
        options |= {"layers": list(WIDTHS[1:-1]), "steps": self.steps, "connection": {"offset": 0.0}}
        built = registry.configure(
            "networks", {"name": "feedforward", "neuron": neuron, **options}, "network"
        )
        return built.build(inputs=WIDTHS[0], outputs=WIDTHS[-1]).to(self.device)

    @cached_property
    def reference(self) -> FeedForward:
        """The network with the weights of all contenders; every layer is scaled to the firing rate."""
        network, run = self.build_network(), self.run_neuron()
        signal = network.encoder(self.make_observations(64).unsqueeze(0))
        with torch.no_grad():
            for layer in network.layers:
                current = layer.connection(signal)
                gain = find_gain(current, run, self.rate)
                for parameter in layer.connection.parameters():
                    parameter.mul_(gain)
                signal = run(gain * current)
        return network

    def run_neuron(self, backend: str = "auto") -> Run:
        """Return a function from currents [1, K or 1, B, N] to outputs [1, K, B, N], from the zero state."""
        network = self.build_network()
        layer, ops = next(iter(network.layers)), TorchOps(network.surrogate)
        values = layer.parameters_of_neuron()
        return lambda x: dispatch.unroll(backend, layer.neuron, ops, x, self.steps, None, values)[0]

    def make_inputs(self, kind: str, batch: int) -> Tensor:
        return self.make_currents(batch) if kind == "neuron" else self.make_observations(batch)

    def make_observations(self, batch: int) -> Tensor:
        """Return normalised observations [B, O]."""
        return torch.randn(batch, WIDTHS[0], generator=torch.Generator().manual_seed(1)).to(self.device)

    def make_currents(self, batch: int) -> Tensor:
        """Return noise [1, K, B, N] with which the neuron fires at the rate."""
        noise = torch.randn(1, self.steps, batch, LONE_NEURONS, generator=torch.Generator().manual_seed(1))
        noise = noise.to(self.device)
        return (find_gain(noise[:, :, :64], self.run_neuron(), self.rate) * noise).requires_grad_()

    @torch.no_grad()
    def measure_rates(self, kind: str, x: Tensor) -> list[float]:
        if kind == "neuron":
            return [measure_rate(self.run_neuron()(x))]
        rates, signal = [], self.reference.encoder(x.unsqueeze(0))
        ops = TorchOps(self.reference.surrogate)
        for layer in self.reference.layers:
            signal, _ = layer(ops, signal, self.steps, None, None, None)  # no state, no reset, no record
            rates.append(measure_rate(signal))
        return rates


def measure_rate(outputs: Tensor) -> float:
    """Return the share of non-zero outputs."""
    return (outputs != 0).float().mean().item()


@torch.no_grad()
def find_gain(current: Tensor, run: Run, rate: float) -> float:
    """Return the factor of the current with the firing rate closest to ``rate``, searched by octaves, then by eighths of an octave."""

    def distance(gain: float) -> float:
        return abs(measure_rate(run(gain * current)) - rate)

    octave = min((2.0**k for k in range(-6, 15)), key=distance)
    return min((octave * 2.0 ** (k / 8) for k in range(-8, 9)), key=distance)


class Contender(torch.nn.Module):
    """A module from observations [B, O] to features [B, F], or [T, B, O] to [T, B, F] for networks that carry their state.

    Inference is a call under ``torch.inference_mode()``.
    """

    comparable: bool = True
    """Whether it computes the same as the reference, so that outputs and gradients are compared."""

    def prepare(self) -> None:
        """Prepare for a batch size and mode; called before each."""

    @cached_property
    def parameter_list(self) -> list[torch.nn.Parameter]:
        """Parameters, listed once as in an optimizer: `zero_grad` of a module searches all its modules in every call."""
        return list(self.parameters())

    def learn(self, x: Tensor) -> None:
        """Run one forward and backward pass with new gradients."""
        for parameter in self.parameter_list:
            parameter.grad = None
        self(x).pow(2).mean().backward()

    def get_gradient(self) -> Tensor:
        """Return the gradients of all weights in the last pass, concatenated."""
        return torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])


class Ours(Contender):
    """The network of this package."""

    def __init__(self, setting: FeedforwardSetting, **options: Any) -> None:
        super().__init__()
        self.network = setting.build_network(**options)
        self.network.load_state_dict(setting.reference.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.unsqueeze(0), None)[0].squeeze(0)

    def get_gradient(self) -> Tensor:
        links = [*(layer.connection for layer in self.network.layers), self.network.decoder.readout]
        parts = [part for link in links for part in (to_output_major(link, link.weight.grad), link.bias.grad)]
        return torch.cat([part.flatten() for part in parts])


class Copy(Contender):
    """Linear layers with the reference's weights in torch's layout, and its readout."""

    def __init__(self, setting: FeedforwardSetting | RecurrentSetting) -> None:
        super().__init__()
        network = setting.reference
        self.steps, layer = setting.steps, next(iter(network.layers))
        self.neuron = layer.neuron
        self.step: Step = layer.neuron.step  # type: ignore[assignment]
        self.values = self.neuron.named_params(*layer.parameters_of_neuron())
        self.ops = TorchOps(network.surrogate)
        self.links = torch.nn.ModuleList(copy_linear(layer.connection) for layer in network.layers)
        self.readout = copy_linear(network.decoder.readout)
        self.leak: float = network.decoder.decay  # type: ignore[assignment]

    def read(self, v: Tensor | None, drive: Tensor) -> Tensor:
        """Return the readout's potential after one more step; ``drive`` is the weighted sum of the spikes."""
        drive = (1.0 - self.leak) * drive
        return drive if v is None else self.leak * v + drive


class PlainLoop(Copy):
    """The straightforward implementation: all layers in one loop over the inner steps, with autograd and a cheap surrogate."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(self.neuron.states)
        states = [self.neuron.named_states(*[x.new_zeros(len(x), width)] * count) for width in WIDTHS[1:-1]]
        v = None
        for _ in range(self.steps):
            s = x
            for i, link in enumerate(self.links):
                s, states[i] = self.step(self.ops, link(s), states[i], self.values)
            v = self.read(v, linear(s, self.readout.weight))
        return v + self.readout.bias  # type: ignore[operator]


class Compiled(Contender):
    """torch.compile of another contender, for one shape at a time, which is its fastest form."""

    def __init__(self, setting: Setting, build: Callable[[Any], Contender]) -> None:
        super().__init__()
        self.eager = build(setting)
        self.comparable = self.eager.comparable
        self.run: Run = self.eager

    def prepare(self) -> None:
        torch._dynamo.reset()  # without it the ninth shape runs uncompiled # pylint: disable=protected-access
        self.run = torch.compile(self.eager, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class DenseFloor(Contender):
    """Only the float32 matrix products of a dense network, into existing buffers: a lower bound of its time.

    Training has the forward products, and per layer one product for the gradient of the weights and one for the gradient of the input,
    except for the first layer's input. The first layer runs once per control step, the others on K * B rows.
    """

    comparable = False

    def __init__(self, setting: FeedforwardSetting) -> None:
        super().__init__()
        self.steps, self.rate = setting.steps, setting.rate
        self.weights = [weight.detach() for weight in Copy(setting).parameters() if weight.ndim == 2]
        self.buffers: list[tuple[Tensor, ...]] = []

    def get_buffers(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """Return per layer: weight, input, output, gradient of the weight, gradient of the input; new ones for a new ``x``."""
        if not self.buffers or self.buffers[0][1] is not x:
            rows, self.buffers = x, []
            for weight in self.weights:
                out = rows @ weight.T
                self.buffers.append((weight, rows, out, torch.empty_like(weight), torch.empty_like(rows)))
                rows = (torch.rand(self.steps * len(x), len(weight), device=x.device) < self.rate).float()
        return self.buffers

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        for weight, rows, out, _, _ in self.get_buffers(x):
            torch.mm(rows, weight.T, out=out)
        return self.buffers[-1][2]

    @torch.inference_mode()
    def learn(self, x: Tensor) -> None:
        self(x)
        # the outputs stand for their gradients: only the sizes of the products matter
        for i, (weight, rows, out, grad_weight, grad_rows) in enumerate(self.buffers):
            torch.mm(out.T, rows, out=grad_weight)
            if i > 0:
                torch.mm(out, weight, out=grad_rows)


class _Nothing(torch.autograd.Function):
    """A function that computes nothing, and gradients of nothing for its weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return x.new_zeros(len(x), WIDTHS[-1])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *map(torch.empty_like, ctx.saved_tensors)


class AutogradFloor(Contender):
    """Torch's autograd around an empty function of the network's weights: a lower bound of contenders with a gradient in Python."""

    comparable = False

    def __init__(self, setting: FeedforwardSetting) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(w.detach().clone() for w in setting.reference.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return _Nothing.apply(x, *self.weights)


class Multilayer(Contender):
    """The equal-size ANN: an MLP of the same widths with ELU."""

    comparable = False

    def __init__(self, setting: FeedforwardSetting) -> None:
        super().__init__()
        weights = Copy(setting)
        layers = [module for link in weights.links for module in (link, torch.nn.ELU())]
        self.network = torch.nn.Sequential(*layers, weights.readout)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class LayerByLayer(Copy):
    """A peer with a function over time: currents [K, B, N] -> spikes, or [B, K, N] if ``time`` is 1."""

    def __init__(self, setting: FeedforwardSetting, cell: Callable[..., peers.Cell], time: int = 0) -> None:
        super().__init__(setting)
        self.cell, self.time = cell(self, *self.values), time

    def forward(self, x: Tensor) -> Tensor:
        first, v = self.links[0](x).unsqueeze(self.time), None
        signal = self.cell(first.expand(*first.shape[: self.time], self.steps, *first.shape[self.time + 1 :]))
        for link in self.links[1:]:
            signal = self.cell(link(signal))
        for drive in linear(signal, self.readout.weight).unbind(self.time):
            v = self.read(v, drive)
        return v + self.readout.bias  # type: ignore[operator]


class StepByStep(Copy):
    """A peer with a function of one step, current and potential [B, N] -> spikes and potential; all layers in one loop."""

    def __init__(self, setting: FeedforwardSetting, cell: Callable[..., peers.Cell]) -> None:
        super().__init__(setting)
        self.cell = cell(self, *self.values)

    def forward(self, x: Tensor) -> Tensor:
        first, v = self.links[0](x), None
        potentials = [x.new_zeros(len(x), width) for width in WIDTHS[1:-1]]
        for _ in range(self.steps):
            signal = first
            for i, link in enumerate(self.links):
                signal, potentials[i] = self.cell(signal if i == 0 else link(signal), potentials[i])
            v = self.read(v, linear(signal, self.readout.weight))
        return v + self.readout.bias  # type: ignore[operator]


class Alone(Contender):
    """A neuron without a network: currents [1, K, B, N] -> outputs [1, K, B, N]."""

    def __init__(self, setting: FeedforwardSetting, backend: str) -> None:
        super().__init__()
        self.run = setting.run_neuron(backend)
        self.grad_output = self.grad_current = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def learn(self, x: Tensor) -> None:
        out = self(x)
        if self.grad_output.shape != out.shape:
            noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
            self.grad_output = noise.to(out.device)
        (self.grad_current,) = torch.autograd.grad(out, x, self.grad_output)

    def get_gradient(self) -> Tensor:
        return self.grad_current.flatten()


def copy_linear(link: Any) -> torch.nn.Linear:
    """Return a torch linear layer with the weights of ``link``."""
    copied = torch.nn.Linear(link.in_features, link.out_features, device=link.weight.device)
    copied.load_state_dict({"weight": to_output_major(link, link.weight), "bias": link.bias})
    return copied


def to_output_major(link: Any, weight: Tensor) -> Tensor:
    """Return ``weight`` as [outputs, inputs], as in torch; our connections are input-major."""
    return weight if isinstance(link, torch.nn.Linear) else weight.t()
