"""Models of skrl's TD3 and SAC: bounded actors, a continuous target actor, and critics of actions.

Every model is reset in every control step, because replayed transitions have no state. Actors act in [-1, 1]: the bounds are
part of the network, so that gradients at a bound are small and not cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, override

import torch
from skrl.models.torch import DeterministicMixin
from torch import Tensor, nn
from torch.nn import functional

from spiky_rl.learners.common.penalties import leave_out_penalty
from spiky_rl.learners.skrl.models import SequenceModel

LOG_STD_RANGE = (-5.0, 2.0)
"""Default range of the logarithm of SAC's standard deviation."""


class ReplayModel(SequenceModel):
    """Abstract stateless model; skrl keeps a moving average of its weights as target network."""

    def __init__(self, outputs: int | None, source: str, **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`."""
        super().__init__(outputs, source, num_envs=1, sequence_length=1, **arguments)

    @override
    def update_parameters(self, model: nn.Module, *, polyak: float = 1.0) -> None:
        """Move the weights by the share ``polyak`` towards those of ``model``, and copy its buffers and extra state.

        skrl pairs parameters by position, and leaves out buffers and extra state, such as running means and the number of
        updates that slopes depend on. Here, they are paired by name. Time constants and thresholds are stored unconstrained, so
        their averages stay within their ranges.
        """
        with torch.no_grad():
            theirs = dict(model.named_parameters())
            weights = {name: weight.data for name, weight in self.named_parameters()}
            sources = [theirs[name].data for name in weights]
            # pylint: disable-next=protected-access  # one call for all weights
            torch._foreach_lerp_(list(weights.values()), sources, polyak)  # type: ignore[attr-defined]
            buffers = dict(model.named_buffers())
            for name, buffer in self.named_buffers():
                buffer.copy_(buffers[name])
            modules = dict(model.named_modules())
            for name, module in self.named_modules():
                if type(module).get_extra_state is not nn.Module.get_extra_state:
                    module.set_extra_state(modules[name].get_extra_state())


class ReplayActor(ReplayModel):
    """Base of the actors, whose actions are in [-1, 1]."""

    key = "agent.network"

    @override
    def random_act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # torch's generator, which a checkpoint holds and a seed determines; skrl draws from the space's own
        x = self.get_input(inputs)
        return 2.0 * torch.rand(len(x), self.num_actions, device=x.device) - 1.0, {}


class DeterministicActor(DeterministicMixin, ReplayActor):
    """Actor of TD3: tanh of a spiking network's or an ANN's features."""

    def __init__(self, **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`."""
        ReplayActor.__init__(self, None, "observations", **arguments)
        DeterministicMixin.__init__(self)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        features, outputs = self.compute_sequences(inputs)
        return torch.tanh(features), outputs


class ProxyActor(DeterministicActor):
    """Continuous target actor of a spiking actor: an ANN that learns to give the actor's actions.

    The actions of averaged weights jump, because spike trains are no continuous function of weights. An ANN moves smoothly:
    whenever the actor is updated, the ANN takes one gradient step on its squared difference from the actor's actions, on the
    observations of its own latest call.
    Source: https://arxiv.org/abs/2505.24161
    """

    def __init__(self, *, learning_rate: float, **arguments: Any) -> None:
        """Initialise with the arguments of `DeterministicActor` and the learning rate of the imitation."""
        super().__init__(**arguments)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate, fused=True)
        self._observations: Tensor | None = None

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        self._observations = self.get_input(inputs)
        return super().compute(inputs, role)

    @override
    def freeze_parameters(self, freeze: bool = True) -> None:
        """Leave the weights trainable, as they are trained by `update_parameters`."""

    @override
    def update_parameters(self, model: nn.Module, *, polyak: float = 1.0) -> None:
        """Take one gradient step towards the actions of the actor ``model``; before the first action, do nothing."""
        if self._observations is None:
            return
        assert isinstance(model, DeterministicActor)
        inputs = {"observations": self._observations}
        with torch.no_grad():
            actor_actions, _ = model.compute(inputs)
        with torch.enable_grad():
            loss = functional.mse_loss(self.compute(inputs)[0], actor_actions)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()


class SquashedGaussianActor(ReplayActor):
    """Actor of SAC: tanh of a Gaussian with the mean and the standard deviation from a spiking network or an ANN.

    skrl has no such policy: its Gaussian is unbounded, or clipped without regard to its probability.
    """

    def __init__(self, *, std_range: Sequence[float] = (), **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`, and the range of the standard deviation; `LOG_STD_RANGE` if empty."""
        outputs = 2 * math.prod(arguments["action_space"].shape)
        ReplayActor.__init__(self, outputs, "observations", **arguments)
        self.log_std_range = tuple(map(math.log, std_range)) if std_range else LOG_STD_RANGE

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # without noise
        features, outputs = self.compute_sequences(inputs)
        return torch.tanh(features[:, : self.num_actions]), outputs

    def compute_gaussian(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation before the tanh, [B, A] each."""
        mean, raw_log_std = self.compute_sequences(inputs)[0].chunk(2, -1)
        low, high = self.log_std_range
        return mean, low + 0.5 * (high - low) * (torch.tanh(raw_log_std) + 1.0)

    @override
    def act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return sampled actions [B, A], and skrl's dict with ``log_prob`` [B, 1] and ``mean_actions`` [B, A]."""
        mean, log_std = self.compute_gaussian(inputs)
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh(x)^2), also where it underflows
        log_prob = log_prob - 2.0 * (math.log(2.0) - pre_tanh - functional.softplus(-2.0 * pre_tanh))
        outputs = {"log_prob": log_prob.sum(-1, keepdim=True), "mean_actions": torch.tanh(mean)}
        return torch.tanh(pre_tanh), outputs


class ActionValue(DeterministicMixin, ReplayModel):
    """Critic of observations and actions, with an ANN or a spiking network."""

    def __init__(self, *, source: str = "observations", **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`."""
        ReplayModel.__init__(self, 1, source, **arguments)
        DeterministicMixin.__init__(self)

    @override
    def count_inputs(self) -> int:
        return super().count_inputs() + self.num_actions

    @override
    def get_input(self, inputs: Mapping[str, Any]) -> Tensor:
        return torch.cat([inputs[self.source], inputs["taken_actions"]], -1)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # value [B, 1]
        if not inputs["taken_actions"].requires_grad:
            return self.compute_sequences(inputs)
        # the actor is updated, and must not learn to calm the critic's neurons
        with leave_out_penalty(self.network):
            return self.compute_sequences(inputs)
