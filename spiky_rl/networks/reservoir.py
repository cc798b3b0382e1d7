"""Reservoir: a fixed random recurrent network of spiking neurons with a trained readout.

    I_k <- decay I_(k-1) + W^T z_(k-1);   z_k = neuron(input weights x + bias + I_k);   r_k <- d r_(k-1) + (1 - d) z_k

x: encoded observations, I: synaptic current, W: recurrent weights, z: spikes, r: trace, d: decay of a trace.

Spikes z reach the other neurons through exponential synapses. The readout, linear or a small ELU network, maps the standardised
traces r of every neuron to the features. The state is carried through the episode. Only the readout has a gradient, so a learner
may compute the traces once, in the rollout, and train on them repeatedly. ``train_input: true`` also
trains the input weights and then replays the rollout.

The working regime of a spiking reservoir depends on its firing rate, not on its spectral radius. With ``control: rate`` the
strength of the recurrent synapses is calibrated until neurons fire at ``target_rate`` on slowly changing standard-normal
observations, which resemble normalised observations. If the constant currents (``bias``) alone cause more than 60 % of this rate,
or bias and input together more than 80 %, the calibration reduces them first. Constant currents near the rheobase, different for
each neuron, let small observations cause spikes too. Currents are in units of the neuron's rheobase, the smallest constant current
at which it spikes, so any spiking neuron works.

Source: Maass, Natschlaeger & Markram (2002), liquid state machines; rates as Schrauwen et al. (2008), homeostasis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, override

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from spiky_rl.codecs.decoders.membrane import Potential
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import RegistryError, Settings, Widths, error_path, option
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.connections._cost import ConnectionCost, count_zeros, make_matrix_cost
from spiky_rl.connections.base import Shape, count_values
from spiky_rl.kernels import dispatch, neuron_checks
from spiky_rl.kernels.launch import NeuronRun, RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks import _own_parts
from spiky_rl.networks._layer import NeuronParameters, run_neuron
from spiky_rl.networks.base import (
    ForwardRecord,
    NetworkCost,
    SpikeChannel,
    SpikingNetwork,
    State,
    UnitGroup,
)
from spiky_rl.reservoirs import calibration

if TYPE_CHECKING:
    from spiky_rl.reservoirs.graphs.base import Wiring
    from spiky_rl.reservoirs.plasticity.base import Plasticity

SERIES, CONTROL_STEPS, WASHOUT = 24, 36, 12
"""Calibration: number of series of observations, control steps in each, and control steps at the start that are left out."""
MIN_DEVIATION = 0.3
"""Smallest standard deviation by which a trace is divided, as a share of the mean standard deviation of all traces."""


class Reservoir(SpikingNetwork):
    """Observations [T, B, O] -> features [T, B, F]."""

    class Options(Settings):
        size: int = option(256, "N: number of neurons", low=2)
        steps: int = option(10, "K: inner steps per control step", low=1, high=10_000)
        control: Literal["rate", "gain", "spectral_radius"] = option(
            "rate", "quantity that sets the strength of the recurrent synapses"
        )
        target_rate: float = option(
            20.0, "target of the mean firing rate, for control: rate", low=0.1, high=1e5, unit="Hz"
        )
        gain: float = option(
            1.0,
            "scale of the recurrent weights, times 1 / sqrt(synapses per neuron), for control: gain",
            low=0.0,
        )
        spectral_radius: float = option(
            0.9, "spectral radius of the recurrent weights, for control: spectral_radius", low=0.0
        )
        input_scaling: float = option(
            1.0, "bound of the input weights, uniform within plus and minus this, in rheobases", low=0.0
        )
        bias: float = option(1.1, "mean constant current, in rheobases; a neuron fires above 1")
        spread: float = option(
            0.1, "half-width of the uniform distribution of constant currents, in rheobases", low=0.0
        )
        tau_synapse: float = option(5.0, "time constant of the recurrent synapses", low=1e-3, unit="ms")
        traces: tuple[Annotated[float, Field(ge=1e-3)], ...] = option(
            (20.0,),
            "time constants of the traces that the readout reads; each gives one trace per neuron",
            unit="ms",
        )
        hidden: Widths = option((), "hidden layers of the readout; empty: a linear readout")
        train_input: bool = option(False, "also train the input weights, by BPTT over the rollout")
        seed: int | None = option(
            None, "seed of wiring and input weights; null: drawn from the run's seed", low=0
        )
        backend: str = dispatch.backend_option()

        @field_validator("traces")
        @classmethod
        def _check_not_empty(cls, traces: tuple[float, ...]) -> tuple[float, ...]:
            if not traces:
                raise RegistryError("empty; give at least one time constant, such as 20.0")
            return traces

    parts = {
        "encoder": ("encoders", "direct"),
        "graph": ("graphs", "erdos_renyi"),
        "neuron": ("neurons", {"name": "lif", "tau": 20.0, "input_gain": "ode"}),
        "surrogate": ("surrogates", "arctangent"),
        "plasticity": ("plasticities", None),
    }
    stateful = True

    @override
    @classmethod
    def is_recurrent(cls, options: Options) -> bool:
        return options.train_input

    @override
    @classmethod
    def caches_fixed_part(cls, options: Options) -> bool:
        return not options.train_input

    @override
    @classmethod
    def validate(cls, path: str, options: Options, parts: Mapping[str, Any]) -> None:
        with error_path(f"{path}.backend"):
            dispatch.check(options.backend)
        with error_path(f"{path}.surrogate"):
            surrogate = parts["surrogate"].build()
            neuron_checks.check_surrogate(surrogate)
        with error_path(f"{path}.neuron"):
            neuron = parts["neuron"].build()
            neuron_checks.check_neuron(neuron, surrogate)
            if neuron.graded:
                raise RegistryError(f"name: {parts['neuron'].name!r} sends graded events and has no rate")
            if neuron.learn:
                raise RegistryError(
                    f"learn: {', '.join(neuron.learn)}: the neurons of a reservoir are not trained"
                )
        if surrogate.schedule:
            raise RegistryError(
                f"{path}.surrogate.schedule: the slope in a reservoir is constant; leave it out"
            )
        with error_path(f"{path}.graph"):
            parts["graph"].build().check(options.size)
        if parts["plasticity"] is not None and options.train_input:
            raise RegistryError(f"{path}.plasticity: not available with {path}.train_input=true")

    def __init__(
        self,
        options: Options,
        encoder: ComponentSpec,
        graph: ComponentSpec,
        neuron: ComponentSpec,
        surrogate: ComponentSpec,
        plasticity: ComponentSpec | None,
        inputs: Shape | int,
        outputs: int,
    ) -> None:
        """Build the network from options and parts; ``inputs`` is O, ``outputs`` is F."""
        super().__init__()
        seed = int(torch.randint(2**31, ())) if options.seed is None else options.seed
        generator = torch.Generator().manual_seed(seed)
        self.steps, self.size, self.train_input = options.steps, options.size, options.train_input
        # for the calibration on the CPU, before a learner moves the network to its device
        self.backend = dispatch.AUTO
        self.inputs = count_values(inputs)
        self.encoder: Encoder = encoder.build(inputs=self.inputs, steps=options.steps)
        _own_parts.check_encoder(encoder.name, self.encoder, self.inputs, options.steps)
        if not options.train_input:
            self.encoder.requires_grad_(False)  # no gradient reaches it
        self.neuron = neuron.build()
        self.parameters_of_neuron = NeuronParameters(self.neuron, options.size)
        self.surrogate = surrogate.build()
        self.ops = TorchOps(self.surrogate, self.surrogate.slope)
        self.wiring: Wiring = graph.build().wire(options.size, np.random.default_rng(seed))
        self.rheobase = calibration.find_rheobase(self.neuron, self.ops)
        """Smallest constant current at which a neuron spikes: the unit of currents."""
        self.feedback = RecurrentFeedback(
            delays=1, binary=True, decay=math.exp(-self.neuron.dt / options.tau_synapse)
        )
        self.trace_decays = tuple(math.exp(-self.neuron.dt / tau) for tau in options.traces)
        # runs once per trace; each call passes the decay of its trace, so the tau here is not used
        self.filter = Potential.from_options(dt=self.neuron.dt, tau=options.traces[0])
        self.fixed_size = None if options.train_input else options.size * len(options.traces)
        uniform = 2.0 * torch.rand(self.encoder.width, options.size, generator=generator) - 1.0
        self.input_weight = nn.Parameter(
            options.input_scaling * self.rheobase * uniform, requires_grad=options.train_input
        )
        bias_noise = 2.0 * torch.rand(options.size, generator=generator) - 1.0
        self.register_buffer("bias", (options.bias + options.spread * bias_noise) * self.rheobase)
        weight = torch.from_numpy(self.wiring.weights).to(torch.get_default_dtype())
        self.register_buffer("weight", weight * self.rheobase)
        self.register_buffer("mean", torch.zeros(options.size * len(options.traces)))
        self.register_buffer("deviation", torch.ones(options.size * len(options.traces)))
        self.bias: Tensor
        self.weight: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        self.plasticity: Plasticity | None = None
        self.channel: SpikeChannel | None = None
        self.decoder = _make_mlp_readout(options.size * len(options.traces), options.hidden, outputs)
        # states [B, N]: the neuron's, the recurrent loop's (latest spikes, synaptic current), then one per trace
        states = len(self.neuron.states) + self.feedback.states + len(options.traces)
        self.state_sizes = self.encoder.state_sizes + (options.size,) * states
        self._calibrate(options, generator)
        if plasticity is not None:
            rule: Plasticity = plasticity.build(
                weight=self.weight,
                bias=self.bias,
                inhibitory=torch.from_numpy(self.wiring.inhibitory),
                unit=self.rheobase,
                dt=self.neuron.dt,
            )
            self.plasticity = rule
            self.state_sizes += rule.state_sizes
        self.set_backend(options.backend)

    @override
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_input):
            traces, new = self._forward_reservoir(x, state, keep, record)
        return self.apply_readout(traces), new

    @override
    def compute_fixed_part(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, adapt: bool = False
    ) -> tuple[Tensor, State]:
        with torch.no_grad():
            return self._forward_reservoir(x, state, keep, None, self.plasticity if adapt else None)

    @override
    def apply_readout(self, fixed: Tensor) -> Tensor:
        return self.decoder((fixed - self.mean) / self.deviation)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        return (self.size,)

    @override
    def set_spike_channels(self, channels: Sequence[SpikeChannel]) -> None:
        (self.channel,) = channels

    @property
    def readout(self) -> nn.Linear:
        return self.decoder[-1]  # type: ignore[return-value]

    @override
    def measure_cost(self) -> NetworkCost:
        readout = [m.weight.detach() for m in self.decoder if isinstance(m, nn.Linear)]
        connections = [
            make_matrix_cost(self.input_weight, 0),
            make_matrix_cost(self.weight, 1),
            *(ConnectionCost(None, w.numel(), count_zeros(w), w.numel()) for w in readout),
        ]
        traces = len(self.trace_decays)
        states = len(self.neuron.states) + 1 + traces  # 1: the synaptic current
        units = [UnitGroup(self.neuron, self.size * self.steps, states, traces)]
        activations = [module for module in self.decoder if not isinstance(module, nn.Linear)]
        # the last linear map of the readout has no activation
        for width, module in zip(self.readout_widths, activations, strict=False):
            units.append(UnitGroup(module, width, states=1))
        return NetworkCost(connections, units, self.size, self.inputs / self.encoder.width)

    def count_update(self) -> None:
        super().count_update()
        self.encoder.resample_noise(self.updates)

    @override
    def set_backend(self, backend: str) -> None:
        dispatch.check(backend)
        self.backend = backend
        self.encoder.set_backend(backend)
        if self.plasticity is not None:
            self.plasticity.backend = backend

    def compute_traces(self, u: np.ndarray) -> np.ndarray:
        """Compute the traces [series, time, N x traces] of inputs ``u`` [series, time, O], each series from zero states.

        One time step is one control step. For the metrics of reservoirs.
        """
        x = torch.from_numpy(np.asarray(u, np.float32)).transpose(0, 1).contiguous().to(self.weight)
        traces, _ = self.compute_fixed_part(x, self.zero_state(x.shape[1], x))
        return traces.transpose(0, 1).cpu().numpy()

    def _forward_reservoir(
        self,
        x: Tensor,
        state: State | None,
        keep: Tensor | None,
        record: ForwardRecord | None,
        plastic: Plasticity | None = None,
    ) -> tuple[Tensor, State]:
        old_states = [s.squeeze(0) for s in (self.zero_state(x.shape[1], x) if state is None else state)]
        encoder_states = len(self.encoder.state_sizes)
        encoder_state, states = tuple(old_states[:encoder_states]), old_states[encoder_states:]
        signal, new_encoder_state = self.encoder.encode_stateful(x, encoder_state or None, keep)
        # plasticity may change the bias from one control step to the next, so `_run_plastic` adds it
        bias = self.bias if plastic is None else None
        # [T, K or 1, B, N]
        input_current = dispatch.linear(
            self.backend, signal, self.input_weight.t(), bias, self.encoder.binary
        )
        potentials: list[Tensor] | None = None if record is None or record.only_signals else []
        if plastic is None:
            spikes, traces, states = self._run_neurons(input_current, states, keep, potentials)
        else:
            spikes, traces, states = self._run_plastic(input_current, states, keep, plastic)
        if record is not None:
            record.signals += [signal, spikes]
            if potentials is not None:
                record.potentials.append(torch.stack(potentials).view_as(spikes))
                record.operations += self._count_operations(x, signal, spikes, traces)
        new_state = () if state is None else tuple(s.unsqueeze(0) for s in (*new_encoder_state, *states))
        return traces, new_state

    def _run_plastic(
        self,
        input_current: Tensor,
        states: list[Tensor],
        keep: Tensor | None,
        plastic: Plasticity,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Call `_run_neurons` for one control step at a time and change weights and bias after each.

        ``input_current`` is the current of the input, without the bias.
        """
        all_spikes, all_traces = [], []
        for t in range(input_current.shape[0]):
            step_keep = None if keep is None else keep[t : t + 1]
            current = input_current[t : t + 1] + self.bias
            spikes, traces, states = self._run_neurons(current, states, step_keep, None, plastic)
            all_spikes.append(spikes)
            all_traces.append(traces)
            plastic.adapt(self.weight, self.bias)
        return torch.cat(all_spikes), torch.cat(all_traces), states

    def _run_neurons(
        self,
        current: Tensor,
        states: Sequence[Tensor],
        keep: Tensor | None,
        potentials: list[Tensor] | None,
        plastic: Plasticity | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run neurons on a ``current`` [T, K or 1, B, N]; return spikes [T, K, B, N], traces [T, B, N x traces], new states.

        With ``plastic``, T must be 1.
        """
        loop_end = len(self.neuron.states) + self.feedback.states
        traces_end = loop_end + len(self.trace_decays)
        neuron_state, old_traces = tuple(states[:loop_end]), states[loop_end:traces_end]
        plastic_state = states[traces_end:]
        run = NeuronRun(
            self.neuron,
            self.ops,
            current,
            self.steps,
            state=neuron_state,
            params=self.parameters_of_neuron(),
            keep=keep,
            trace=potentials,
            feedback=self.feedback,
            synapses=self.weight,
        )
        spikes, new = run_neuron(self.backend, self.channel, run)
        traces, new_states = [], [*new]
        for old_trace, decay in zip(old_traces, self.trace_decays, strict=True):
            filtered, last = dispatch.unroll(
                self.backend, self.filter, self.ops, spikes, self.steps, (old_trace,), (decay,), keep
            )
            traces.append(filtered[:, -1])
            new_states += last
        if keep is not None:
            plastic_state = [s * keep.prod(0).unsqueeze(-1) for s in plastic_state]
        if plastic is not None:
            plastic_state = plastic.observe(spikes[0], tuple(plastic_state))
        new_states += plastic_state
        return spikes, torch.cat(traces, -1), new_states

    def _count_operations(self, x: Tensor, signal: Tensor, spikes: Tensor, traces: Tensor) -> list[Tensor]:
        """Count effective operations [T, B] of the encoder, of input and recurrent synapses, and of the readout."""
        fan_out = (self.weight != 0).to(x.dtype).sum(1)
        width = self.readout_widths[0]
        later_layers = sum(a * b for a, b in itertools.pairwise(self.readout_widths))
        return [
            self.encoder.count_operations(x),
            (signal != 0).sum((1, 3)) * self.size,
            ((spikes != 0).to(x.dtype) @ fan_out).sum(1),
            (traces != 0).sum(-1) * width + later_layers,
        ]

    @property
    def readout_widths(self) -> list[int]:
        """Number of outputs of each linear map of the readout."""
        return [module.out_features for module in self.decoder if isinstance(module, nn.Linear)]

    def _calibrate(self, options: Options, generator: torch.Generator) -> None:
        """Scale the recurrent weights, then measure the mean and standard deviation that standardise the traces."""
        synapses_per_neuron = (self.weight != 0).sum(0).float().mean().clamp(min=1.0)
        weight = self.weight / synapses_per_neuron.sqrt()
        x = calibration.make_observations(SERIES, CONTROL_STEPS, self.inputs, generator)

        if options.control == "rate":

            def measure_rate(drives: calibration.ReservoirWeights) -> float:
                self.bias, self.input_weight.data, self.weight = drives
                return self._measure_rate(x)

            start = calibration.ReservoirWeights(
                self.bias.clone(), self.input_weight.detach().clone(), weight
            )
            calibrated = calibration.calibrate_rate(start, self.rheobase, options.target_rate, measure_rate)
            self.bias, self.input_weight.data, self.weight = calibrated
        elif options.control == "gain":
            self.weight = options.gain * weight
        else:
            largest = np.abs(np.linalg.eigvals(weight.double().numpy() / self.rheobase)).max()
            if largest < 1e-9:
                raise RegistryError("control: spectral_radius needs a graph with cycles; this graph has none")
            self.weight = float(options.spectral_radius / largest) * weight
        # [CONTROL_STEPS, SERIES, N x traces]
        traces, _ = self.compute_fixed_part(x, self.zero_state(SERIES, x))
        traces = traces[WASHOUT:].flatten(0, 1)
        self.mean = traces.mean(0)
        deviation = traces.std(0)
        if not deviation.any():
            raise RegistryError(
                "bias: no neuron of this reservoir fires on standard-normal observations; raise bias or input_scaling"
            )
        # the first spike of a neuron that was silent here must not give a huge standardised trace
        self.deviation = deviation.clamp(min=MIN_DEVIATION * float(deviation.mean()))

    def _measure_rate(self, x: Tensor) -> float:
        """Return the mean firing rate in Hz on observations [T, B, O]."""
        record = ForwardRecord(only_signals=True)
        with torch.no_grad():
            self._forward_reservoir(x, self.zero_state(x.shape[1], x), None, record)
        return float(record.signals[1][WASHOUT:].mean()) * 1000.0 / self.neuron.dt


def _make_mlp_readout(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Make an MLP with ELU from ``inputs`` through ``hidden`` to ``outputs`` values; its initial output is near zero."""
    *first, last = [nn.Linear(a, b) for a, b in itertools.pairwise([inputs, *hidden, outputs])]
    # a random readout of many traces would give large first actions
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
    return nn.Sequential(*(part for linear in first for part in (linear, nn.ELU())), last)
