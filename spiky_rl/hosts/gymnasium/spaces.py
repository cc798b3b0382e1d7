"""Observation and action spaces of a task, and their conversion to tensors."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiky_rl.config.options import UserError, error_path
from spiky_rl.config.schema import CATEGORICAL
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.base import require_obs_groups
from spiky_rl.hosts.gymnasium.interface import TaskInterface, describe_interface, list_choice_texts
from spiky_rl.learners.common.action_bounds import ActionBounds, round_inwards
from spiky_rl.learners.common.discrete_actions import LargestChoice, list_choices

if TYPE_CHECKING:
    import gymnasium


MIN_PIXELS = 16
"""Smallest height and width of an image, which the default CNN can process; other boxes of three dimensions become vectors.

If both orders of the axes have such sides, the image has the smaller number of channels.
"""


@dataclass(frozen=True)
class TaskSpaces:
    """Spaces of one environment."""

    observation_shape: tuple[int, ...]
    """Shape of an observation: (C, H, W) for an image, (O,) for any other space, whose values are in C order."""
    has_channels_last: bool
    """Whether observations are images [H, W, C] in Gymnasium; other images are [C, H, W]."""
    needs_flattening: bool
    """Whether the environments need Gymnasium's ``FlattenObservation``, because observations are no boxes."""
    action_space: Any
    """Gymnasium's space of an action: a Box, Discrete, MultiDiscrete or MultiBinary."""
    control_period: float | None
    """Seconds from one control step to the next, the task's ``dt``, or ``tau`` of a CartPole; None if it has none."""
    interface: TaskInterface
    """Meaning of observations and actions, as far as it is known."""

    @classmethod
    def read(cls, task: str, env: gymnasium.Env) -> Self:
        """Return the spaces of an environment. Raises UserError for spaces that are not available."""
        from gymnasium.spaces import Box, flatdim

        observations, actions = env.observation_space, env.action_space
        if not _is_flattenable(observations):
            raise UserError(
                f"--task {task}: {_describe_unflattenable(observations)} are not available; allowed: Box, and what"
                " gymnasium.wrappers.FlattenObservation flattens"
            )
        is_box = isinstance(observations, Box)
        sides = observations.shape if is_box and len(observations.shape) == 3 else (0, 0, 0)
        has_channels_last = min(sides[:2]) >= MIN_PIXELS and sides[2] <= sides[0]
        if has_channels_last:
            shape: tuple[int, ...] = (sides[2], *sides[:2])
        else:
            shape = sides if min(sides[1:]) >= MIN_PIXELS else (flatdim(observations),)
        if not isinstance(actions, Box) and not list_choices(actions)[0]:
            raise UserError(
                f"--task {task}: {type(actions).__name__} actions are not available; allowed: Box, Discrete, MultiDiscrete and MultiBinary"
            )
        for name, space in (("observations", observations), ("actions", actions)):
            if flatdim(space) == 0:
                raise UserError(f"--task {task}: {name} of 0 values are not available; allowed: at least 1")
        dt = getattr(env.unwrapped, "dt", None)
        if dt is None and _is_cartpole(env.unwrapped):
            dt = getattr(env.unwrapped, "tau", None)
        control_period = float(dt) if isinstance(dt, int | float) and dt > 0 else None
        interface = describe_interface(env)
        if (choices := list_choices(actions))[0]:
            interface = replace(interface, actions=list_choice_texts(*choices, interface.actions))
        return cls(shape, has_channels_last, not is_box, actions, control_period, interface)

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of choices of each component of a discrete action; empty for continuous actions."""
        return list_choices(self.action_space)[0]

    @property
    def component_choices(self) -> list[int]:
        """Setting ``choices`` of the action distribution: `choices` of several components; empty for a single one, which needs none."""
        return list(self.choices) if len(self.choices) > 1 else []

    @property
    def is_discrete(self) -> bool:
        """Whether actions are choices."""
        return bool(self.choices)

    @property
    def num_actions(self) -> int:
        """A: number of components of an action, or of choices of all components if actions are discrete."""
        return sum(self.choices) or math.prod(self.action_space.shape)

    @functools.cached_property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Smallest and largest continuous action, [A] each."""
        return round_inwards(self.action_space.low, np.inf), round_inwards(self.action_space.high, -np.inf)

    @property
    def is_image(self) -> bool:
        """Whether observations are images."""
        return len(self.observation_shape) == 3

    def _check_distribution(self, task: str, spec: AgentSpec) -> None:
        if self.is_discrete and spec.algorithm != "ppo":
            raise UserError(
                f"--task {task}: discrete actions are not available with {spec.algorithm.upper()}; allowed: PPO"
            )
        distribution = spec.runner["actor"].get("distribution_cfg") or {}
        name, choices = distribution.get("class_name", ""), list(distribution.get("choices") or ())
        kind, allowed = (
            ("discrete", CATEGORICAL) if self.is_discrete else ("continuous", "GaussianDistribution")
        )
        if self.is_discrete != (name == CATEGORICAL):
            raise UserError(
                f"agent.actor.distribution_cfg.class_name: {name} given, but {task} has {kind} actions; allowed: {allowed}"
            )
        if choices != self.component_choices:
            raise UserError(
                f"agent.actor.distribution_cfg.choices: {choices} given; allowed on {task}: {self.component_choices}"
            )

    def check_agent(self, task: str, spec: AgentSpec) -> None:
        """Raise UserError if an agent's distribution, models, observation groups or network do not fit the spaces."""
        self._check_distribution(task, spec)
        require_obs_groups(spec.runner.get("obs_groups") or {}, ("policy",))
        if self.is_image:
            self._check_image_agent(task, spec)
        self._check_network(spec)

    def _check_network(self, spec: AgentSpec) -> None:
        """Raise RegistryError if the actor's network does not take the observations, as a convolution does not take vectors."""
        if spec.network is None:
            return
        channels, *rest = self.observation_shape
        inputs = (channels * spec.runner.get("history", 1), *rest)
        # the draws of this network must not change those of the training
        with torch.random.fork_rng(devices=[]), error_path("agent.network"):
            spec.network.build(inputs=inputs, outputs=self.num_actions)

    @staticmethod
    def _check_image_agent(task: str, spec: AgentSpec) -> None:
        if spec.runner.get("history", 1) > 1:
            raise UserError(
                f"agent.history: {spec.runner['history']} given, but observations of {task} are images; allowed: 1"
            )
        for role, network in (("actor", spec.network), ("critic", spec.critic_network)):
            model = spec.runner[role].get("class_name", "MLPModel")
            if network is None and model == "MLPModel":
                raise UserError(
                    f"agent.{role}.class_name: {model} takes vectors, but observations of {task} are images; allowed: CNNModel"
                )

    def to_tensor(self, observations: NDArray[Any], device: torch.device | str) -> Tensor:
        """Return Gymnasium's observations [B, ...] as float32 [B, O], or [B, C, H, W] in [0, 1] for images of bytes."""
        values = torch.as_tensor(observations, device=device)
        if not self.is_image:
            values = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
        else:
            values = values.permute(0, 3, 1, 2) if self.has_channels_last else values
            if values.dtype == torch.uint8:
                return values.float() / 255.0
        # a copy, because Gymnasium may write the next observations into the same array
        return values.to(torch.float32, copy=True)

    def to_actions(self, actions: Tensor, in_task_units: bool = False) -> NDArray[Any]:
        """Return a policy's ``actions`` [B, A] in the form that Gymnasium's environments take.

        Components are clipped to [-1, 1] and mapped to the task's bounds, unless they are ``in_task_units`` already; a component
        without bounds stays as it is. They are rounded if the task takes whole numbers or bools. A component of a discrete action is the index
        of its largest number, counted from its first choice.
        """
        values, space = actions.detach().to("cpu", torch.float32), self.action_space
        if self.is_discrete:
            return self._choose(values).numpy().astype(space.dtype)
        low, high = self.bounds
        if not in_task_units:
            values = self._mapping(values)
        clipped = np.clip(values.numpy(), low, high).reshape(len(values), *space.shape)
        if self.takes_whole_numbers:
            clipped = np.rint(clipped)
        # float32 stays unless the task's type cannot hold it
        return clipped if np.can_cast(clipped.dtype, space.dtype) else clipped.astype(space.dtype)

    @property
    def takes_whole_numbers(self) -> bool:
        """Whether every component of an action is a whole number or a bool."""
        return self.action_space.dtype.kind in "iub"

    @functools.cached_property
    def _choose(self) -> LargestChoice:
        return LargestChoice(self.action_space)

    @functools.cached_property
    def _mapping(self) -> ActionBounds:
        low, high = self.bounds
        return ActionBounds(torch.as_tensor(low), torch.as_tensor(high))


def _is_cartpole(task: Any) -> bool:
    """Return whether a ``task`` is Gymnasium's CartPole or derives from it; ``tau`` of another class may be anything, as a torque."""
    return any(base.__module__ == "gymnasium.envs.classic_control.cartpole" for base in type(task).__mro__)


def _is_flattenable(space: gymnasium.Space) -> bool:
    """Return whether Gymnasium turns values of ``space`` into vectors of one length."""
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # a task's own space
        return False


def _describe_unflattenable(space: gymnasium.Space, name: str = "observations") -> str:
    """Return class and name of the first part of ``space`` that Gymnasium cannot flatten, such as ``Text observations.mission``."""
    spaces = getattr(space, "spaces", ())
    for key, part in spaces.items() if isinstance(spaces, dict) else enumerate(spaces):
        if not _is_flattenable(part):
            return _describe_unflattenable(part, f"{name}.{key}")
    return f"{type(space).__name__} {name}"
