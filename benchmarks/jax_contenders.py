"""Contenders of ``bench.py`` on JAX: the plain loop's mathematics under ``jax.jit``, and two libraries with neurons of their own.

`JaxLoop` and `JaxRecurrent` have the reference's weights and compute what the plain loop computes, forward and gradient, in float32,
layer after layer with the inner steps unrolled or scanned, which is the fastest order here. Spyx and brainpy.state run their own neurons
on the same weights: other work, so they stand outside the ranking.
"""

from __future__ import annotations

import importlib
import math
import os
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, override

import torch
from torch import Tensor

from benchmarks.contenders import Contender, Copy, FeedforwardSetting
from benchmarks.recurrent_contenders import RecurrentCopy, RecurrentSetting

Weights = dict[str, Any]
"""JAX arrays by the names of `Copy`'s parameters; matrices are [inputs, outputs]."""
SINGLE = "--xla_cpu_multi_thread_eigen=false"
UNROLL = 4
"""Inner steps per iteration of a scan; the fastest of 1, 2, 4 and 8."""


def limit_threads(threads: int) -> None:
    """Let JAX compute on this many CPU ``threads``; has an effect only before JAX is imported."""
    os.environ["NPROC"] = str(threads)  # the size of XLA's thread pools, by default that of the machine
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1 and SINGLE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SINGLE}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


class JaxContender(Contender):
    """A function of weights and observations under ``jax.jit``, and its gradient.

    Args:
        setting: The comparison; JAX runs on the CPU only.
        copy: The reference's weights.
    """

    def __init__(self, setting: FeedforwardSetting | RecurrentSetting, copy: Copy) -> None:
        super().__init__()
        if setting.device != "cpu":
            raise RuntimeError(f"device {setting.device}: the JAX contenders run on the cpu")
        limit_threads(torch.get_num_threads())
        self.jax = importlib.import_module("jax")
        # every call waits for its result, so a hand-over to another thread would only cost time
        self.jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.numpy = self.jax.numpy
        self.steps, self.leak = setting.steps, float(copy.leak)
        self.values = [float(value) for value in copy.values]  # type: ignore[arg-type]
        """The neuron's parameters, in their order."""
        self.names = [name for name, _ in copy.named_parameters()]
        self.weights: Weights = {
            name: self.numpy.asarray(parameter.detach().t().numpy().copy())
            for name, parameter in copy.named_parameters()
        }
        self.spike = self._make_spike(float(copy.ops.slope))
        self.run = self.jax.jit(self.compute)
        self.differentiate = self.jax.jit(
            self.jax.grad(lambda weights, x: (self.compute(weights, x) ** 2).mean())
        )
        self.gradients: Weights = {}
        self._inputs: tuple[Tensor | None, Any] = None, None

    def _make_spike(self, slope: float) -> Callable[[Any], Any]:
        """Return the Heaviside step with the derivative of the surrogate ``arctangent``."""
        numpy = self.numpy

        @self.jax.custom_gradient
        def spike(x: Any) -> Any:
            def pull(gradient: Any) -> Any:
                return gradient * (0.5 * slope / (1.0 + (0.5 * math.pi * slope * x) ** 2))

            return (x >= 0).astype(numpy.float32), pull

        return spike

    @abstractmethod
    def compute(self, weights: Weights, x: Any) -> Any:
        """Return the features for observations ``x``, as the plain loop does."""

    def layers(self, weights: Weights) -> list[tuple[Any, Any]]:
        """Return (weight, bias) of each hidden layer's map."""
        count = sum(name.startswith("links.") and name.endswith("weight") for name in self.names)
        return [(weights[f"links.{i}.weight"], weights[f"links.{i}.bias"]) for i in range(count)]

    def read(self, drives: Any) -> list[Any]:
        """Return the readout's potential after each of the ``drives``, without the bias."""
        potentials: list[Any] = []
        for drive in drives:
            drive = (1.0 - self.leak) * drive
            potentials.append(self.leak * potentials[-1] + drive if potentials else drive)
        return potentials

    def _convert(self, x: Tensor) -> Any:
        if self._inputs[0] is not x:
            self._inputs = x, self.numpy.asarray(x.detach().numpy().copy())
        return self._inputs[1]

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_dlpack(self.jax.block_until_ready(self.run(self.weights, self._convert(x))))

    @override
    def learn(self, x: Tensor) -> None:
        self.gradients = self.jax.block_until_ready(self.differentiate(self.weights, self._convert(x)))

    @override
    def get_gradient(self) -> Tensor:
        return torch.cat([torch.from_dlpack(self.gradients[name]).t().flatten() for name in self.names])


class JaxLoop(JaxContender):
    """The feed-forward network: each layer takes its currents of all inner steps from one product."""

    def __init__(self, setting: FeedforwardSetting) -> None:
        super().__init__(setting, Copy(setting))

    @override
    def compute(self, weights: Weights, x: Any) -> Any:
        decay, threshold = self.values
        spikes: list[Any] = []
        for i, (weight, bias) in enumerate(self.layers(weights)):
            if i == 0:
                currents = [x @ weight + bias] * self.steps
            else:
                currents = self.numpy.split(self.numpy.concatenate(spikes) @ weight + bias, self.steps)
            v, spikes = self.numpy.zeros_like(currents[0]), []
            for current in currents:
                v = decay * v + current
                spikes.append(self.spike(v - threshold))
                v = v - self.jax.lax.stop_gradient(spikes[-1]) * threshold
        drives = self.numpy.split(self.numpy.concatenate(spikes) @ weights["readout.weight"], self.steps)
        return self.read(drives)[-1] + weights["readout.bias"]


class JaxRecurrent(JaxContender):
    """The recurrent network: one scan over all inner steps per layer."""

    def __init__(self, setting: RecurrentSetting) -> None:
        super().__init__(setting, RecurrentCopy(setting))

    @override
    def compute(self, weights: Weights, x: Any) -> Any:
        numpy, scan = self.numpy, self.jax.lax.scan
        decay, threshold, decay_adaptation, adaptation = self.values
        spikes: Any = None
        for i, (weight, bias) in enumerate(self.layers(weights)):
            currents = (
                numpy.repeat(x @ weight + bias, self.steps, axis=0) if i == 0 else spikes @ weight + bias
            )
            recurrent_weight = weights[f"recurrent_weights.{i}"]
            zeros = numpy.zeros((x.shape[1], recurrent_weight.shape[0]))

            def step(state: Any, current: Any, recurrent_weight: Any = recurrent_weight) -> Any:
                v, a, last = state
                v, a = decay * v + current + last @ recurrent_weight, decay_adaptation * a
                spike = self.spike(v - (threshold + adaptation * a))
                v = v - self.jax.lax.stop_gradient(spike) * threshold
                return (v, a + spike, spike), spike

            _, spikes = scan(step, (zeros, zeros, zeros), currents, unroll=UNROLL)

        def integrate(v: Any, drive: Any) -> Any:
            v = self.leak * v + (1.0 - self.leak) * drive
            return v, v

        drives = spikes @ weights["readout.weight"]
        _, potentials = scan(integrate, numpy.zeros_like(drives[0]), drives, unroll=UNROLL)
        return potentials[self.steps - 1 :: self.steps] + weights["readout.bias"]


class StepwiseJax(JaxContender):
    """A JAX library with a neuron of one step; all layers in one loop."""

    comparable = False

    def __init__(self, setting: FeedforwardSetting) -> None:
        copy = Copy(setting)
        super().__init__(setting, copy)
        self.widths = [link.out_features for link in copy.links]
        self.slope = float(copy.ops.slope)
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Build the library's neurons."""

    @abstractmethod
    def make_zero_state(self, i: int, batch: int) -> Any:
        """Return the state of layer ``i`` before the first step."""

    @abstractmethod
    def step(self, i: int, current: Any, state: Any) -> tuple[Any, Any]:
        """Return the spikes of layer ``i`` and its new state."""

    @override
    def compute(self, weights: Weights, x: Any) -> Any:
        layers = self.layers(weights)
        first, drives = x @ layers[0][0] + layers[0][1], []
        states = [self.make_zero_state(i, len(x)) for i in range(len(layers))]
        for _ in range(self.steps):
            spikes = first
            for i, (weight, bias) in enumerate(layers):
                spikes, states[i] = self.step(i, spikes if i == 0 else spikes @ weight + bias, states[i])
            drives.append(spikes @ weights["readout.weight"])
        return self.read(drives)[-1] + weights["readout.bias"]


class Spyx(StepwiseJax):
    """Spyx' LIF: it spikes before it receives its current, so every layer adds a delay of one step, and its last product has no effect."""

    @override
    def build(self) -> None:
        lif = importlib.import_module("spyx.nn").LIF
        activation = importlib.import_module("spyx.axn").arctan(0.5 * self.slope)
        random = importlib.import_module("flax.nnx").Rngs(0)
        decay, threshold = self.values
        settings = {"beta": decay, "threshold": threshold, "activation": activation, "rngs": random}
        self.cells = [lif((width,), **settings) for width in self.widths]

    @override
    def make_zero_state(self, i: int, batch: int) -> Any:
        return self.numpy.zeros((batch, self.widths[i]))

    @override
    def step(self, i: int, current: Any, state: Any) -> tuple[Any, Any]:
        return self.cells[i](current, state)


class Brainpy(StepwiseJax):
    """brainpy.state's LIF: exponential Euler, a reset one step later, and gradients through the reset."""

    @override
    def build(self) -> None:
        unit = importlib.import_module("brainunit")
        importlib.import_module("brainstate").environ.set(dt=1.0 * unit.ms)
        decay, threshold = self.values
        settings = {
            "R": unit.ohm / (1.0 - decay),
            "tau": -unit.ms / math.log(decay),
            "V_th": threshold * unit.mV,
            "spk_fun": importlib.import_module("braintools.surrogate").Arctan(alpha=self.slope),
        }
        lif = importlib.import_module("brainpy.state").LIF
        self.cells, self.milliampere = [lif(width, **settings) for width in self.widths], unit.mA

    @override
    def make_zero_state(self, i: int, batch: int) -> Any:
        self.cells[i].init_state(batch)

    @override
    def step(self, i: int, current: Any, state: Any) -> tuple[Any, Any]:
        return self.cells[i].update(current * self.milliampere), None
