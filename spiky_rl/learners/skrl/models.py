"""Policy and value function for skrl, of a spiking network or of the ANN that stands in its place.

skrl hands models flat batches. In the rollout a batch is one control step of every environment, with the state before it
under ``rnn``; in the update of a recurrent agent it is whole rollouts, environment by environment, with the state before
every step and the ends of episodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack, override

import gymnasium
import torch
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from torch import Tensor, nn

from spiky_rl.config import registry
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.schema import ModelSettings
from spiky_rl.learners.skrl.ann import AnnModel
from spiky_rl.networks.base import SpikingNetwork, State


class Spaces(TypedDict):
    """Spaces and device that skrl's runner gives every model."""

    observation_space: gymnasium.Space | None
    state_space: gymnasium.Space | None
    action_space: gymnasium.Space | None
    device: torch.device | str | None


class SequenceModel(Model):
    """A model of skrl's that sees control steps in their order. Abstract: its subclasses say what the output means."""

    def __init__(
        self,
        outputs: int | None,
        source: str,
        num_envs: int,
        sequence_length: int,
        hidden_dims: Sequence[int],
        network: PlainMapping | None,
        ann: Mapping[str, object],
        spaces: Spaces,
    ) -> None:
        """What both models take.

        Args:
            outputs: Width of the output; None: that of an action.
            source: Key of skrl's inputs that the model reads: ``observations`` or ``states``.
            num_envs: B.
            sequence_length: T, control steps per environment and rollout.
            hidden_dims: Widths of the hidden layers of the ANN, here or in whose place the network is.
            network: Settings of a spiking network, as `spiky_rl.config.registry.configure` takes them; None: an ANN.
            ann: ``activation``, ``rnn_type``, ``rnn_hidden_dim`` and ``rnn_num_layers`` of the ANN.
            spaces: What the model reads and writes, and where it lies.
        """
        Model.__init__(self, **spaces)
        self.num_envs, self.sequence_length, self.source = num_envs, sequence_length, source
        width = self.num_observations if source == "observations" else self.num_states
        outputs = self.num_actions if outputs is None else outputs
        self.body: SpikingNetwork | AnnModel
        if network is not None:
            path = "agent.network" if isinstance(self, GaussianMixin) else "agent.critic_network"
            self.body = registry.configure("networks", dict(network), path).build(
                inputs=width, outputs=outputs
            )
        else:
            defaults = {key: ModelSettings.default(key) for key in ("rnn_hidden_dim", "rnn_num_layers")}
            plain = {"activation": "elu", "rnn_type": None, **defaults, **ann}
            self.body = AnnModel(width, outputs, hidden_dims, **plain)
        self.ann_operations = sum(a * b for a, b in itertools.pairwise([width, *hidden_dims, outputs]))

    @property
    def network(self) -> SpikingNetwork | None:
        """The spiking network; None in an ANN."""
        return self.body if isinstance(self.body, SpikingNetwork) else None

    @property
    def stateful(self) -> bool:
        """Whether a state is carried from one control step to the next."""
        return self.body.stateful

    @property
    def state_shapes(self) -> list[tuple[int, int]]:
        """(layers, width) of every state; none of a stateless model."""
        if isinstance(self.body, AnnModel):
            return self.body.state_shapes
        return [(1, width) for width in self.body.state_sizes] if self.stateful else []

    @override
    def get_specification(self) -> dict[str, Any]:
        """skrl's: (layers, environments, width) of every state.

        The length is there without states too: skrl asks the policy for it on behalf of both models.
        """
        sizes = [(layers, self.num_envs, width) for layers, width in self.state_shapes]
        return {"rnn": {"sequence_length": self.sequence_length, "sizes": sizes}}

    def zero_state(self, batch: int, like: Tensor) -> State:
        """The state in which ``batch`` episodes begin, in the device and type of ``like``."""
        return tuple(like.new_zeros(layers, batch, width) for layers, width in self.state_shapes)

    def compute_sequences(self, inputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """skrl's ``inputs`` -> outputs, one row per sample, and skrl's dict with the states after the last step.

        Samples without states, such as those that skrl initialises models with, start from rest.
        """
        x: Tensor = inputs[self.source]
        if not self.stateful:
            return self.body(x.unsqueeze(0), None)[0].squeeze(0), {"rnn": []}
        states = inputs.get("rnn")
        if "terminated" not in inputs:
            output, after = self.body(x.unsqueeze(0), tuple(states) if states else self.zero_state(len(x), x))
            return output.squeeze(0), {"rnn": list(after)}
        length = self.sequence_length
        ended = (inputs["terminated"] | inputs["truncated"]).view(-1, length).transpose(0, 1)
        keep = torch.ones_like(ended, dtype=x.dtype)
        keep[1:] -= ended[:-1].to(x.dtype)
        first = tuple(s[:, ::length] for s in states or ())
        output, after = self.body(x.view(-1, length, x.shape[-1]).transpose(0, 1), first, keep)
        return output.transpose(0, 1).reshape(len(x), -1), {"rnn": list(after)}


class SpikingPolicy(GaussianMixin, SequenceModel):
    """Gaussian actions, their mean from a spiking network or an ANN, their deviation the same for all observations."""

    def __init__(
        self,
        *,
        num_envs: int,
        sequence_length: int,
        hidden_dims: Sequence[int],
        network: PlainMapping | None = None,
        ann: Mapping[str, object] | None = None,
        init_std: float = 1.0,
        std_range: Sequence[float] = (),
        learn_std: bool = True,
        **spaces: Unpack[Spaces],
    ) -> None:
        """Arguments as `SequenceModel`'s, and the deviation: at first, its limits (none if empty), whether it is learned."""
        SequenceModel.__init__(
            self, None, "observations", num_envs, sequence_length, hidden_dims, network, ann or {}, spaces
        )
        low, high = map(math.log, std_range) if std_range else (-math.inf, math.inf)
        self.limits = low, high
        GaussianMixin.__init__(self, clip_log_std=bool(std_range), min_log_std=low, max_log_std=high)
        deviation = torch.full((self.num_actions,), math.log(init_std))
        self.log_std = nn.Parameter(deviation, requires_grad=learn_std)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # the action mean [B, A], the logarithm of its deviation [A], and the states after the last step
        mean, outputs = self.compute_sequences(inputs)
        return mean, {"log_std": self.log_std, **outputs}


class SpikingValue(DeterministicMixin, SequenceModel):
    """The value of what it reads, from a spiking network or an ANN."""

    def __init__(
        self,
        *,
        num_envs: int,
        sequence_length: int,
        hidden_dims: Sequence[int],
        network: PlainMapping | None = None,
        ann: Mapping[str, object] | None = None,
        source: str = "observations",
        **spaces: Unpack[Spaces],
    ) -> None:
        """Arguments as `SequenceModel`'s."""
        SequenceModel.__init__(
            self, 1, source, num_envs, sequence_length, hidden_dims, network, ann or {}, spaces
        )
        DeterministicMixin.__init__(self)

    @override
    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        # the value [B, 1], and the states after the last step
        return self.compute_sequences(inputs)
