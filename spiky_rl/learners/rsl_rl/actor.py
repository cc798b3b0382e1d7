"""Actors and teachers built from the specification of their agent, without an environment."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rsl_rl.models import MLPModel, RNNModel
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.errors import get_error_text
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import AgentSpec, build_agent_spec
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.learners.common.teacher import Teacher
from spiky_rl.learners.rsl_rl.config import make_runner_cfg

type Shapes = Mapping[str, torch.Size]


def build_actor(
    spec: AgentSpec, obs: TensorDict, actions: int, groups: Sequence[str], role: str = "actor"
) -> MLPModel:
    """Return the model of an agent's actor, with initial weights; random generators stay as they are.

    Args:
        spec: The agent.
        obs: Observations of an environment, [B, ...].
        actions: Number of actions.
        groups: Observation groups of the actor.
        role: Name of the model's observation set.
    """
    settings = dict(make_runner_cfg(spec)["actor"])
    cls: Any = resolve_callable(settings.pop("class_name"))  # resolve_class needs rsl_rl 5.5
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return cls(obs, {role: list(groups)}, role, actions, **settings)


def build_teacher(teacher: Teacher, obs: TensorDict, actions: int, device: str) -> MLPModel:
    """Return a teacher's model for an environment's observations ``obs`` [B, ...] and number of ``actions``.

    Raises CheckpointError if the weights do not fit.
    """
    spec = build_agent_spec(teacher.agent, teacher.spec, {})
    groups = (spec.runner.get("obs_groups") or {}).get("actor") or ["policy"]
    missing = [group for group in groups if group not in obs]
    if missing:
        raise CheckpointError(
            f"{teacher.path}: the teacher needs the observation groups {', '.join(missing)}, which the task does not have"
        )
    model = build_actor(spec, obs, actions, groups, role="teacher")
    try:
        model.load_state_dict(teacher.weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{teacher.path}: the teacher does not fit the observations and actions of this task: {get_error_text(error)}"
        ) from None
    return model.to(device).eval()


def load_actor(
    spec: AgentSpec, weights: Mapping[str, Tensor], sizes: tuple[int, int] | None = None
) -> MLPModel:
    """Return the model of an agent's actor with its trained ``weights``; raises as `Learner.load_actor`.

    ``sizes`` are those of `build_for_weights`.
    """
    model = build_for_weights(
        lambda obs, actions: build_actor(spec, obs, actions, ["policy"]), weights, sizes
    )
    if isinstance(model, RNNModel):
        raise UserError(
            f"agent.actor.class_name: {type(model).__name__} given; allowed: spiking networks and MLPs"
        )
    model.load_state_dict(weights)
    return model


def build_for_weights(
    build: Callable[[TensorDict, int], MLPModel],
    weights: Mapping[str, Tensor],
    sizes: tuple[int, int] | None,
) -> MLPModel:
    """Return the model that ``weights`` fit, with initial weights; its observations are one vector, the group ``policy``.

    ``build`` takes observations and the number of actions. ``sizes`` are the numbers of observations and actions; None to find them from
    how the shapes of small models differ. Raises ValueError if no shape gives whole numbers.
    """

    def build_with(inputs: int, actions: int) -> MLPModel:
        return build(TensorDict({"policy": torch.zeros(1, inputs)}, batch_size=[1]), actions)

    if sizes is None:
        shapes = {name: value.shape for name, value in weights.items()}
        small, with_input, with_action = (
            {name: value.shape for name, value in build_with(*few).state_dict().items()}
            for few in ((8, 2), (9, 2), (8, 3))
        )
        sizes = 8 + _count_steps(small, with_input, shapes), 2 + _count_steps(small, with_action, shapes)
    return build_with(*sizes)


def _count_steps(small: Shapes, larger: Shapes, shapes: Shapes) -> int:
    """Return how many steps lead from the shapes ``small`` to the given ``shapes``; one step leads to ``larger``."""
    for name in small:
        for first, second, given in zip(small[name], larger[name], shapes.get(name, ()), strict=False):
            if second != first and (given - first) % (second - first) == 0:
                return (given - first) // (second - first)
    raise ValueError("the numbers of observations and actions do not follow from the shapes of its weights")
