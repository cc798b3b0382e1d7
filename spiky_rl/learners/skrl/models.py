"""Policy and value function for skrl, with a spiking network or an ANN.

skrl passes flat batches to models. In the rollout, a batch is one control step of every environment, with the preceding state
under ``rnn``. In the update of a recurrent agent, a batch is whole rollouts, environment by environment, with the state before
every step and the ends of episodes.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypedDict, Unpack, override

import gymnasium
import torch
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

from spiky_rl.config import registry
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.learners.skrl.ann import AnnModel
from spiky_rl.networks.base import SpikingNetwork, State


class Spaces(TypedDict):
    """Spaces and device that skrl's runner passes to every model."""

    observation_space: gymnasium.Space | None
    state_space: gymnasium.Space | None
    action_space: gymnasium.Space | None
    device: torch.device | str | None


class SequenceModel(Model):
    """Abstract skrl model that processes control steps in order; subclasses define the meaning of the output."""

    key: ClassVar[str] = "agent.critic_network"
    """Key of its spiking network, for messages."""

    def __init__(
        self,
        outputs: int | None,
        source: str,
        *,
        num_envs: int,
        sequence_length: int,
        hidden_dims: Sequence[int],
        network: PlainMapping | None = None,
        ann: Mapping[str, Any] | None = None,
        **spaces: Unpack[Spaces],
    ) -> None:
        """Build the model.

        Args:
            outputs: Width of the output; None for the width of an action.
            source: Key of skrl's inputs that the model reads: ``observations`` or ``states``.
            num_envs: Number of environments, B.
            sequence_length: Control steps per environment and rollout, T.
            hidden_dims: Widths of the hidden layers of the ANN, or of the ANN that the network replaces.
            network: Settings of a spiking network for `spiky_rl.config.registry.configure`; None for an ANN.
            ann: Further arguments of `AnnModel`.
            spaces: Observation, state and action space, and device.
        """
        Model.__init__(self, **spaces)
        self.num_envs, self.sequence_length, self.source = num_envs, sequence_length, source
        width = self.count_inputs()
        outputs = self.num_actions if outputs is None else outputs
        self.body: SpikingNetwork | AnnModel
        if network is not None:
            self.body = registry.configure("networks", dict(network), self.key).build(
                inputs=width, outputs=outputs
            )
        else:
            self.body = AnnModel(width, outputs, hidden_dims, **(ann or {}))
        self.ann_operations = sum(a * b for a, b in itertools.pairwise([width, *hidden_dims, outputs]))

    def count_inputs(self) -> int:
        """Return the width of the input."""
        return self.num_observations if self.source == "observations" else self.num_states

    def get_input(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the input in skrl's ``inputs``, one row per sample."""
        return inputs[self.source]

    def copy_for_inference(self) -> Self:
        """Return a copy with its own weights."""
        return copy.deepcopy(self)

    @property
    def network(self) -> SpikingNetwork | None:
        """Spiking network; None for an ANN."""
        return self.body if isinstance(self.body, SpikingNetwork) else None

    @property
    def stateful(self) -> bool:
        """Whether the model carries a state from one control step to the next."""
        return self.body.stateful

    @property
    def state_shapes(self) -> list[tuple[int, int]]:
        """(layers, width) of every state; empty for a stateless model."""
        if isinstance(self.body, AnnModel):
            return self.body.state_shapes
        return [(1, width) for width in self.body.state_sizes] if self.stateful else []

    @override
    def get_specification(self) -> dict[str, Any]:
        """Return skrl's specification: (layers, environments, width) of every state, and the sequence length.

        The length is set without states too, because skrl reads it from the policy for both models.
        """
        sizes = [(layers, self.num_envs, width) for layers, width in self.state_shapes]
        return {"rnn": {"sequence_length": self.sequence_length, "sizes": sizes}}

    def zero_state(self, batch: int, like: Tensor) -> State:
        """Return the zero state of ``batch`` episodes, with device and dtype of ``like``."""
        return tuple(like.new_zeros(layers, batch, width) for layers, width in self.state_shapes)

    def compute_sequences(self, inputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the outputs for skrl's ``inputs``, one row per sample, and skrl's dict with the states after the last step.

        Samples without states, such as skrl's initialisation of models, start from the zero state.
        """
        x = self.get_input(inputs)
        if not self.stateful:
            return self.body(x.unsqueeze(0), None)[0].squeeze(0), {"rnn": []}
        states = inputs.get("rnn")
        if "terminated" not in inputs:
            state = tuple(states) if states else self.zero_state(len(x), x)
            output, state = self.body(x.unsqueeze(0), state)
            return output.squeeze(0), {"rnn": list(state)}
        length = self.sequence_length
        ended = (inputs["terminated"] | inputs["truncated"]).view(-1, length).transpose(0, 1)
        keep = torch.ones_like(ended, dtype=x.dtype)
        keep[1:] -= ended[:-1].to(x.dtype)
        first = tuple(s[:, ::length] for s in states or ())
        output, state = self.body(x.view(-1, length, x.shape[-1]).transpose(0, 1), first, keep)
        return output.transpose(0, 1).reshape(len(x), -1), {"rnn": list(state)}


class NormalizingAgent:
    """Mixin that gives inference policies the observation normalisation of a skrl agent."""

    policy: SequenceModel
    _observation_preprocessor: Callable[[Tensor], Tensor]

    def normalize_observations(self, observations: Tensor) -> Tensor:
        """Return normalised ``observations`` [..., O], as input of the policy."""
        return self._observation_preprocessor(observations)

    def copy_normalisation(self) -> Callable[[Tensor], Tensor]:
        """Return a copy of the observation normalisation, which later training does not change."""
        normalise = self._observation_preprocessor
        return copy.deepcopy(normalise) if isinstance(normalise, nn.Module) else normalise


class SpikingPolicy(GaussianMixin, SequenceModel):
    """Gaussian policy with the mean from a spiking network or an ANN, and a std independent of the observations."""

    key = "agent.network"

    def __init__(
        self,
        *,
        init_std: float = 1.0,
        std_range: Sequence[float] = (),
        learn_std: bool = True,
        **arguments: Any,
    ) -> None:
        """Initialise with arguments of `SequenceModel`, and the std: initial value, limits (none if empty), whether learned."""
        SequenceModel.__init__(self, None, "observations", **arguments)
        low, high = -math.inf, math.inf
        if std_range:
            low, high = map(math.log, std_range)
        self.limits = low, high
        GaussianMixin.__init__(self, clip_log_std=bool(std_range), min_log_std=low, max_log_std=high)
        log_std = torch.full((self.num_actions,), math.log(init_std))
        self.log_std = nn.Parameter(log_std, requires_grad=learn_std)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # action mean [B, A], log std [A], and the states after the last step
        mean, outputs = self.compute_sequences(inputs)
        return mean, {"log_std": self.log_std, **outputs}

    @override
    def copy_for_inference(self) -> Self:
        # the distribution of the last update holds tensors of an autograd graph, which cannot be copied
        return copy.deepcopy(self, {id(self.distribution()): None})

    @property
    def noise_parameters(self) -> list[nn.Parameter]:
        """Parameters of the action noise."""
        return [self.log_std]

    @property
    def action_std(self) -> Tensor:
        """Standard deviation of the sampled actions, [A], clamped to its limits."""
        return self.log_std.detach().clamp(*self.limits).exp()

    @property
    def mean_entropy(self) -> float:
        """Entropy of an action in nats."""
        return (self.action_std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum().item()


class CategoricalPolicy(SequenceModel):
    """Choice among A actions, with logits from a spiking network or an ANN.

    A sample is a one-hot vector [B, A], and the deterministic action the logits, whose largest component is the most probable
    action; skrl's own mixin has indices, which an environment of vectors cannot take.
    """

    key = "agent.network"
    noise_parameters: Sequence[nn.Parameter] = ()
    """Parameters of the action noise: none."""

    def __init__(self, **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`."""
        super().__init__(None, "observations", **arguments)
        self._distribution: OneHotCategorical | None = None

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # logits [B, A], and the states after the last step
        return self.compute_sequences(inputs)

    @override
    def act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return sampled actions [B, A] and skrl's outputs, with the log-probability [B, 1] of the sampled or taken actions."""
        logits, outputs = self.compute(inputs, role)
        self._distribution = OneHotCategorical(logits=logits)
        actions = inputs.get("taken_actions")
        if actions is None:
            actions = self._distribution.sample()
        return actions, {**outputs, "log_prob": self._distribution.log_prob(actions).unsqueeze(-1)}

    def get_entropy(self, *, role: str = "") -> Tensor:  # pylint: disable=unused-argument
        """Return the entropies of the latest distributions, [B, 1]."""
        return self.distribution().entropy().unsqueeze(-1)

    def distribution(self, *, role: str = "") -> OneHotCategorical:  # pylint: disable=unused-argument
        """Return the latest distributions."""
        assert self._distribution is not None, "call act first"
        return self._distribution

    @property
    def action_std(self) -> Tensor:
        """Mean standard deviation of each component of the latest samples, [A]."""
        return self.distribution().stddev.detach().mean(dim=0)

    @property
    def mean_entropy(self) -> float:
        """Mean entropy of the latest distributions in nats."""
        return self.distribution().entropy().mean().item()

    @override
    def copy_for_inference(self) -> Self:
        # the distribution of the last update holds tensors of an autograd graph, which cannot be copied
        return copy.deepcopy(self, {id(self._distribution): None})


class SpikingValue(DeterministicMixin, SequenceModel):
    """Value function with a spiking network or an ANN."""

    def __init__(self, *, source: str = "observations", **arguments: Any) -> None:
        """Initialise with arguments of `SequenceModel`."""
        SequenceModel.__init__(self, 1, source, **arguments)
        DeterministicMixin.__init__(self)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # value [B, 1], and the states after the last step
        return self.compute_sequences(inputs)
