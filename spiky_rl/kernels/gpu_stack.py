"""A stack of linear maps and neurons on a GPU: a feed-forward network whose penalty on activity is part of its kernels.

Per layer, the forward pass is one matrix product and one kernel, the backward pass one kernel and the two products of its gradients.
The neurons' kernels add up everything that is a sum over samples: activity, and the gradients of biases and parameters. The signals
between two layers are kept as the products read them, and currents are kept, so nothing is packed, unpacked or computed again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spiky_rl.kernels import operators, programs
from spiky_rl.kernels.launch import KernelLaunch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.surrogates.base import Surrogate

if TYPE_CHECKING:
    from spiky_rl.kernels.stack import StackStage

_PER_STAGE = 4
"""Number of tensors per stage that may have a gradient: weight, bias, params, state."""


@dataclass(frozen=True)
class PenaltyGradient:
    """A penalty on the activity of the first layers of a stack."""

    layers: int
    """Number of layers that the penalty reads."""
    compute_gradient: Callable[[Tensor], Tensor]
    """Returns the penalty's gradient [M] for the mean absolute outputs [M] of all neurons of these layers, in order."""


class LayerKernels(ABC):
    """The kernels that a stack needs: a backend's. All tensors are contiguous float32."""

    @abstractmethod
    def allocate_activity(self, like: Tensor, widths: Sequence[int]) -> Tensor:
        """Allocate the mean activities [rows, M] of layers of these ``widths`` for a signal ``like`` [T, K or 1, B, C].

        The mean over the rows is that over all samples and inner steps.
        """

    @abstractmethod
    def layer_forward(
        self, run: KernelLaunch, offset: Tensor | None, activity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs of a layer's neurons and the states after the last step, None without states.

        Args:
            run: The launch.
            offset: [N]; with it the output is [T, B, N]: that of the last inner steps plus the offset.
            activity: If given, columns of `allocate_activity`, which receive the layer's activity.
        """

    @abstractmethod
    def layer_backward(
        self,
        run: KernelLaunch,
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        charge: Tensor | None,
        last_step: bool,
        of_state: bool,
        of_sums: bool,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of current and state, and partial sums [1 + P, rows, N]; None for what is not wanted.

        The sums over the rows are the gradients of a bias and of the parameters.

        Args:
            run: The launch of `layer_forward`.
            grad_output: Gradient of the outputs; None for zero.
            grad_last: Gradient of the states after the last step, [S, B, N]; None for zero.
            charge: [N], the gradient of a penalty for the mean absolute output of each neuron; None for zero.
            last_step: Whether the outputs are those of the last inner steps.
            of_state: Whether to return the gradient of the state.
            of_sums: Whether to return the partial sums.
            weight: [F, N], the weights of a linear map that reads the outputs, if ``grad_output`` is the gradient [T, K, B, F] of
                that map's output; see `can_read_back`.
        """

    @abstractmethod
    def can_read_back(self, run: KernelLaunch, outputs: int) -> bool:
        """Return whether `layer_backward` of ``run`` supports a linear map with this number of ``outputs``."""


class GpuStack:
    """Layers that run one after the other on a GPU, as one function of autograd.

    Args:
        kernels: The backend that runs the neurons.
        stages: The layers, in order; none is recurrent.
    """

    all_neurons_spike = True
    """Whether the stack supports penalties."""

    def __init__(self, kernels: LayerKernels, stages: Sequence[StackStage]) -> None:
        self.kernels, self.stages = kernels, tuple(stages)
        self.inputs = stages[0].map.in_features
        self.states = sum(stage.states for stage in stages)
        self._calls: list[tuple[Surrogate, float, programs.NeuronCall] | None] = [None] * len(stages)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a GpuStack cannot be copied or pickled; build a new one")

    def __call__(
        self,
        x: Tensor,
        steps: int,
        ops: TorchOps,
        states: Sequence[Tensor] | None,
        keep: Tensor | None,
        penalty: PenaltyGradient | None = None,
        offset: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last stage's output and the states [B, N] of all stages in order.

        The output is [T, K, B, N], or [T, B, N], of the last inner steps alone, with an ``offset``.

        Args:
            x: Signal [T, K or 1, B, C].
            steps: K.
            ops: The network's op vocabulary.
            states: States before the first step, [B, N] each. With None the run starts from the zero state and returns no states.
            keep: [T, B]; 0 where an episode begins with this step.
            penalty: A penalty, whose gradient the backward pass adds to that of the outputs; None without one.
            offset: [N], added to the output of the last stage; None for the outputs of all inner steps.
        """
        if x.shape[-1] != self.inputs:
            raise ValueError(f"channels: {x.shape[-1]} given; expected: {self.inputs}")
        if states is not None and len(states) < self.states:
            raise ValueError(f"states: {len(states)} given; expected: {self.states}")
        calls, tensors, rest = [], [], None if states is None else list(states)
        for i, stage in enumerate(self.stages):
            calls.append(self._prepare_call(i, stage, stage.ops or ops))
            state = None if rest is None else _stack_states(rest[: stage.states])
            rest = None if rest is None else rest[stage.states :]
            tensors += [stage.weight, stage.map.bias if stage.biased else None, calls[-1].params, state]
        # read the gradient mode here: inside of the autograd function it is always off
        request = _Request(self, calls, steps, torch.is_grad_enabled(), penalty)
        output, *last = _Run.apply(request, x, keep, offset, *tensors)  # type: ignore[misc]
        return output, [s for layer in last for s in layer.unbind(0)]

    def _prepare_call(self, i: int, stage: StackStage, ops: TorchOps) -> programs.NeuronCall:
        """Return the call of a stage's neuron. If the neuron learns nothing, the call changes only with ``ops``."""
        known = self._calls[i]
        if known is not None and known[0] is ops.surrogate and known[1] == ops.slope:
            return known[2]
        call = programs.prepare_call(stage.neuron, ops, stage.parameters(), stage.map.out_features)
        self._calls[i] = None if stage.neuron.learn else (ops.surrogate, ops.slope, call)
        return call


def _stack_states(states: Sequence[Tensor]) -> Tensor:
    return states[0].unsqueeze(0) if len(states) == 1 else torch.stack(list(states))


def _multiply_weights(stage: StackStage, weight: Tensor, signal: Tensor, bias: Tensor | None) -> Tensor:
    """Return the currents [..., N] of a stage."""
    return torch.nn.functional.linear(signal, weight if stage.output_major else weight.t(), bias)


class _Request(NamedTuple):
    """Request of one call of a stack."""

    stack: GpuStack
    calls: Sequence[programs.NeuronCall]
    steps: int
    recorded: bool
    """Whether gradients are recorded."""
    penalty: PenaltyGradient | None

    @property
    def penalized_widths(self) -> list[int]:
        """Widths of the layers whose activity the penalty reads."""
        count = 0 if self.penalty is None else self.penalty.layers
        return [stage.map.out_features for stage in self.stack.stages[:count]]


def _split_columns(values: Tensor | None, widths: Sequence[int], count: int) -> list[Tensor | None]:
    """Return the columns of ``values`` [..., M] of each of ``count`` layers, None beyond those with ``widths``."""
    parts = [] if values is None else [*values.split(list(widths), -1)]
    return [*parts, *[None] * (count - len(parts))]


class _Run(torch.autograd.Function):
    """A call of the stack; tensors per stage: weight, bias, params, state."""

    @staticmethod
    def forward(
        ctx: Any, run: _Request, x: Tensor, keep: Tensor | None, offset: Tensor | None, *tensors: Any
    ) -> Any:
        stack, n = run.stack, len(run.calls)
        keep = None if keep is None else keep.to(x.dtype).contiguous()
        wanted, (T, _, B, _) = run.recorded and any(ctx.needs_input_grad), x.shape
        widths = run.penalized_widths if wanted else []
        activity = stack.kernels.allocate_activity(x, widths) if widths else None
        counted = _split_columns(activity, widths, n)
        _, needs_x, _, _, *needs = ctx.needs_input_grad
        signal, signals, currents, last, frozen = x, [], [], [], []
        with torch.autocast(x.device.type, enabled=False):  # the neurons' kernels compute in float32
            for i, (stage, call) in enumerate(zip(stack.stages, run.calls, strict=True)):
                weight, bias, params, state = tensors[_PER_STAGE * i : _PER_STAGE * (i + 1)]
                operators.check_shapes(T, B, stage.map.out_features, state, params, keep, stage.states)
                signals.append(signal)
                currents.append(_multiply_weights(stage, weight, signal, bias).contiguous())
                launch = KernelLaunch(call.key, currents[i], state, params, keep, call.uniforms, run.steps)
                added = offset if i == n - 1 else None
                signal, after = stack.kernels.layer_forward(launch, added, counted[i])
                if after is not None:
                    last.append(after)
                    if not (needs_x or any(needs[: _PER_STAGE * (i + 1)])):
                        frozen.append(after)
        if wanted:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*frozen)
            prices = None
            if run.penalty is not None and activity is not None:
                prices = run.penalty.compute_gradient(activity.mean(0))
            ctx.run, ctx.has_offset = run, offset is not None
            ctx.save_for_backward(keep, prices, *tensors, *signals, *currents)
        return signal, *last

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        operators.refuse_second_derivative()
        stack, calls = ctx.run.stack, ctx.run.calls
        n = len(calls)
        keep, prices, *saved = ctx.saved_tensors
        tensors, signals, currents = saved[: -2 * n], saved[-2 * n : -n], saved[-n:]
        _, needs_x, _, needs_offset, *needs = ctx.needs_input_grad
        grad, *grad_last = grads
        grad_offset = grad.sum((0, 1)) if needs_offset and grad is not None else None
        charges = _split_columns(prices, ctx.run.penalized_widths, n)
        launches = [
            KernelLaunch(call.key, current, state, params, keep, call.uniforms, ctx.run.steps)
            for call, current, params, state in zip(
                calls, currents, tensors[2::_PER_STAGE], tensors[3::_PER_STAGE], strict=True
            )
        ]
        gradients: list[Tensor | None] = [None] * len(tensors)
        readout: Tensor | None = None
        with torch.autocast(currents[0].device.type, enabled=False):
            for i in reversed(range(n)):
                stage, first = stack.stages[i], _PER_STAGE * i
                if not needs_x and not any(needs[: first + _PER_STAGE]):
                    break
                weight, *_, state = tensors[first : first + _PER_STAGE]
                of_weight, of_bias, of_params, of_state = needs[first : first + _PER_STAGE]
                grad_current, gradients[first + 3], sums = stack.kernels.layer_backward(
                    launches[i],
                    grad,
                    None if state is None else grad_last.pop(),
                    charges[i],
                    ctx.has_offset and i == n - 1,
                    of_state,
                    of_bias or of_params,
                    readout,
                )
                if sums is not None:
                    totals = sums.sum(1)
                    gradients[first + 1] = totals[0] if of_bias else None
                    gradients[first + 2] = totals[1:] if of_params else None
                rows = grad_current.view(-1, grad_current.shape[-1])
                if of_weight:
                    product = signals[i].reshape(-1, signals[i].shape[-1]).t() @ rows
                    gradients[first] = product.t() if stage.output_major else product
                grad, readout = None, None
                can_read_back = i > 0 and stack.kernels.can_read_back(launches[i - 1], rows.shape[1])
                if can_read_back and stage.output_major:
                    grad, readout = grad_current, weight
                elif i > 0 or needs_x:
                    product = rows @ (weight if stage.output_major else weight.t())
                    grad = product.view(*grad_current.shape[:-1], -1)
        return None, grad, None, grad_offset, *gradients
