"""A stack of linear maps and neurons on a GPU: a feed-forward network whose penalty on activity is part of its kernels.

Per layer, the forward pass is one matrix product and one kernel, the backward pass one kernel and the two products of its gradients.
The neurons' kernels add up everything that is a sum over samples: activity, and the gradients of biases and parameters. The forward
pass keeps the signals between layers as floats, and the currents, so the backward pass unpacks no bits and computes no product again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch, operators, programs
from spiky_rl.kernels.launch import KernelLaunch
from spiky_rl.kernels.ops import TorchOps

if TYPE_CHECKING:
    from spiky_rl.kernels.stack import StackStage

_PER_STAGE = 4
"""Number of tensors per stage that may have a gradient: weight, bias, params, state."""


@dataclass(frozen=True)
class ActivityPenalty:
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
            offset: [N]; if given, the output is [T, B, N]: the output of every control step's last inner step plus the offset.
            activity: [rows, N], the layer's columns of `allocate_activity`, which receive its activity; None to leave it out.
        """

    @abstractmethod
    def layer_backward(
        self,
        run: KernelLaunch,
        grad_output: Tensor | None,
        grad_last: Tensor | None,
        grad_activity: Tensor | None,
        last_step: bool,
        needs_state: bool,
        needs_sums: bool,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of current and state, and partial sums [1 + P, rows, N]; None for a gradient that is not requested.

        Summed over the rows, the first is the gradient of the bias and the others are those of the parameters.

        Args:
            run: The launch of `layer_forward`.
            grad_output: Gradient of the outputs; None for zero.
            grad_last: Gradient of the states after the last step, [S, B, N]; None for zero.
            grad_activity: [N], the gradient of a penalty for the mean absolute output of each neuron; None for zero.
            last_step: Whether the forward pass returned only the outputs of every control step's last inner step.
            needs_state: Whether to return the gradient of the state.
            needs_sums: Whether to return the partial sums.
            weight: [F, N], the weights of the linear map after the layer. If given, ``grad_output`` is the gradient [T, K, B, F] of
                that map's output, and the kernel multiplies the two; see `can_read_back`.
        """

    @abstractmethod
    def can_read_back(self, run: KernelLaunch, outputs: int) -> bool:
        """Return whether `layer_backward` of ``run`` supports a ``weight`` with this number of ``outputs`` F."""


class GpuStack:
    """Layers that run one after the other on a GPU, as one function of autograd.

    Args:
        kernels: The backend that runs the neurons.
        stages: The layers, in order; none is recurrent.
    """

    supports_penalty = True
    """Whether the stack supports a penalty on activity."""

    def __init__(self, kernels: LayerKernels, stages: Sequence[StackStage]) -> None:
        self.kernels, self.stages = kernels, tuple(stages)
        self.inputs = stages[0].map.in_features
        self.states = sum(stage.states for stage in stages)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a GpuStack cannot be copied or pickled; build a new one")

    def __call__(
        self,
        x: Tensor,
        steps: int,
        ops: TorchOps,
        states: Sequence[Tensor] | None,
        keep: Tensor | None,
        penalty: ActivityPenalty | None = None,
        offset: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last stage's output and the states [B, N] of all stages in order.

        The output is [T, K, B, N]; with an ``offset`` [T, B, N], of every control step's last inner step only.

        Args:
            x: Signal [T, K or 1, B, C].
            steps: K.
            ops: The network's op vocabulary.
            states: States before the first step, [B, N] each. With None the run starts from the zero state and returns no states.
            keep: [T, B]; 0 where an episode begins with this step.
            penalty: A backward pass through the output adds its gradient to the gradient of the layers' outputs. None without a penalty.
            offset: [N], added to the output of the last stage; None for the outputs of all inner steps.
        """
        dispatch.check_steps(x, steps)
        if x.shape[-1] != self.inputs:
            raise ValueError(f"channels: {x.shape[-1]} given; expected: {self.inputs}")
        if states is not None and len(states) < self.states:
            raise ValueError(f"states: {len(states)} given; expected: {self.states}")
        features = self.stages[-1].map.out_features
        if offset is not None and (offset.shape != (features,) or offset.dtype != x.dtype):
            raise ValueError(
                f"bias: {[*offset.shape]} in {offset.dtype} given; expected: [{features}] in {x.dtype}"
            )
        if offset is not None:
            operators.check_device("bias", offset, x.device)
        calls, tensors, first = [], [], 0
        for stage in self.stages:
            calls.append(call := stage.prepare_call(ops))
            state = None if states is None else _stack_states(states[first : first + stage.states], x)
            first += stage.states
            params = None if call.params is None else call.params.to(x.dtype)
            tensors += [stage.weight, stage.bias, params, state]
        # read the gradient mode here: inside of the autograd function it is always off
        request = _Request(self, calls, steps, torch.is_grad_enabled(), penalty)
        output, *last = _Run.apply(request, x, keep, offset, *tensors)  # type: ignore[misc]
        return output, [s for layer in last for s in layer.unbind(0)]


def _stack_states(states: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return ``states`` [B, N] as one contiguous tensor [S, B, N] in the type of ``like``.

    With gradients it is a copy, because the backward pass reads it: the caller may reset the states in place before, and a state of a
    rollout in inference mode cannot be kept for it.
    """
    if len(states) == 1 and not torch.is_grad_enabled():
        stacked = states[0].unsqueeze(0)
    else:
        stacked = torch.stack(list(states))
    return stacked.to(like.dtype).contiguous()


def _compute_penalty_gradient(penalty: ActivityPenalty, rates: Tensor) -> Tensor:
    """Return the penalty's gradient [M] for the ``rates`` [M], in their type.

    Raises `ValueError` or `TypeError` if a kernel would read out of bounds or another device's memory.
    """
    gradient = penalty.compute_gradient(rates)
    operators.check_device("sparsity: compute_gradient", gradient, rates.device)
    if gradient.shape != rates.shape:
        raise ValueError(
            f"sparsity: compute_gradient: shape {[*gradient.shape]} given; expected: {[*rates.shape]}"
        )
    return gradient.to(rates.dtype)


def _multiply_weights(stage: StackStage, weight: Tensor, signal: Tensor, bias: Tensor | None) -> Tensor:
    """Return the currents [..., N] of a stage: ``signal`` [..., C] times ``weight`` plus ``bias``."""
    return torch.nn.functional.linear(signal, weight if stage.output_major else weight.t(), bias)


class _Request(NamedTuple):
    """Arguments of one call of a stack that are not tensors."""

    stack: GpuStack
    calls: Sequence[programs.NeuronCall]
    steps: int
    recorded: bool
    """Whether autograd was on when the stack was called."""
    penalty: ActivityPenalty | None

    @property
    def penalty_widths(self) -> list[int]:
        """Widths of the layers that the penalty reads."""
        count = 0 if self.penalty is None else self.penalty.layers
        return [stage.map.out_features for stage in self.stack.stages[:count]]


def _split_columns(values: Tensor | None, widths: Sequence[int], count: int) -> list[Tensor | None]:
    """Return the columns of ``values`` [..., M] of each of ``count`` layers, None beyond those with ``widths``."""
    parts = [] if values is None else [*values.split(list(widths), -1)]
    return [*parts, *[None] * (count - len(parts))]


class _Run(torch.autograd.Function):
    """A call of the stack. ``tensors`` are the weight, bias, params and state of every stage."""

    @staticmethod
    def forward(
        ctx: Any, request: _Request, x: Tensor, keep: Tensor | None, offset: Tensor | None, *tensors: Any
    ) -> Any:
        stack, n = request.stack, len(request.calls)
        T, _, B, _ = x.shape
        keep = None if keep is None else keep.to(x.dtype).contiguous()
        offset = None if offset is None else offset.contiguous()
        needs_backward = request.recorded and any(ctx.needs_input_grad)
        widths = request.penalty_widths if needs_backward else []
        activity = stack.kernels.allocate_activity(x, widths) if widths else None
        layer_activities = _split_columns(activity, widths, n)
        _, needs_x, _, _, *needs = ctx.needs_input_grad
        signal, signals, currents = x, [], []
        last, without_gradient = [], []
        with torch.autocast(x.device.type, enabled=False):  # the neurons' kernels compute in float32
            for i, (stage, call) in enumerate(zip(stack.stages, request.calls, strict=True)):
                weight, bias, params, state = tensors[_PER_STAGE * i : _PER_STAGE * (i + 1)]
                width = stage.map.out_features
                operators.check_shapes(T, B, width, state, params, keep, stage.states, x.device)
                signals.append(signal)
                currents.append(_multiply_weights(stage, weight, signal, bias).contiguous())
                launch = KernelLaunch(
                    call.key, currents[i], state, params, keep, call.uniforms, request.steps
                )
                added = offset if i == n - 1 else None
                signal, after = stack.kernels.layer_forward(launch, added, layer_activities[i])
                if after is not None:
                    last.append(after)
                    if not (needs_x or any(needs[: _PER_STAGE * (i + 1)])):
                        without_gradient.append(after)
        if needs_backward:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*without_gradient)
            grad_activity = None
            if request.penalty is not None and activity is not None:
                grad_activity = _compute_penalty_gradient(request.penalty, activity.mean(0))
            ctx.request, ctx.has_offset = request, offset is not None
            ctx.save_for_backward(keep, grad_activity, *tensors, *signals, *currents)
        return signal, *last

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        operators.refuse_second_derivative()
        request: _Request = ctx.request
        stack, calls = request.stack, request.calls
        n = len(calls)
        keep, grad_activity, *saved = ctx.saved_tensors
        tensors, signals, currents = saved[: -2 * n], saved[-2 * n : -n], saved[-n:]
        _, needs_x, _, needs_offset, *needs = ctx.needs_input_grad
        grad, *grad_last = grads
        grad_offset = grad.sum((0, 1)) if needs_offset and grad is not None else None
        # a backward pass through the states alone adds no penalty
        grad_activity = None if grad is None else grad_activity
        layer_gradients = _split_columns(grad_activity, request.penalty_widths, n)
        launches = [
            KernelLaunch(call.key, current, state, params, keep, call.uniforms, request.steps)
            for call, current, params, state in zip(
                calls, currents, tensors[2::_PER_STAGE], tensors[3::_PER_STAGE], strict=True
            )
        ]
        gradients: list[Tensor | None] = [None] * len(tensors)
        weight_above: Tensor | None = None
        with torch.autocast(currents[0].device.type, enabled=False):
            for i in reversed(range(n)):
                stage, first = stack.stages[i], _PER_STAGE * i
                if not needs_x and not any(needs[: first + _PER_STAGE]):
                    break
                weight, *_, state = tensors[first : first + _PER_STAGE]
                needs_weight, needs_bias, needs_params, needs_state = needs[first : first + _PER_STAGE]
                grad_current, gradients[first + 3], sums = stack.kernels.layer_backward(
                    launches[i],
                    grad,
                    None if state is None else grad_last.pop(),
                    layer_gradients[i],
                    ctx.has_offset and i == n - 1,
                    needs_state,
                    needs_bias or needs_params,
                    weight_above,
                )
                if sums is not None:
                    totals = sums.sum(1)
                    gradients[first + 1] = totals[0] if needs_bias else None
                    gradients[first + 2] = totals[1:] if needs_params else None
                rows = grad_current.view(-1, grad_current.shape[-1])
                if needs_weight:
                    product = signals[i].reshape(-1, signals[i].shape[-1]).t() @ rows
                    gradients[first] = product.t() if stage.output_major else product
                grad, weight_above = None, None
                can_read_back = i > 0 and stack.kernels.can_read_back(launches[i - 1], rows.shape[1])
                if can_read_back and stage.output_major:
                    # the kernel of the layer below multiplies the gradient by this layer's weights
                    grad, weight_above = grad_current, weight
                elif i > 0 or needs_x:
                    product = rows @ (weight if stage.output_major else weight.t())
                    grad = product.view(*grad_current.shape[:-1], product.shape[1])
        return None, grad, None, grad_offset, *gradients
