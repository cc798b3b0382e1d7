"""Conditions of Isaac Lab's environments in one simulation, each with its own group of environments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.hosts.environment import seed_torch
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS
from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition
from spiky_rl.hosts.isaaclab.conditions.requirements import get_newton_solver
from spiky_rl.hosts.isaaclab.conditions.sensing import map_values_to_sensors
from spiky_rl.hosts.isaaclab.history import make_history_layout
from spiky_rl.hosts.isaaclab.workflows import EnvCfg
from spiky_rl.learners.common.inference_policy import InferencePolicy

SCALE_STEPS = 100
"""Control steps of random actions for measuring the standard deviation of every observed value."""


def configure_env(env_cfg: EnvCfg, names: Sequence[str]) -> None:
    """Prepare a task's ``env_cfg`` for an evaluation under the conditions ``names``, before the simulator starts."""
    share_env_origin(env_cfg)
    for name in names:
        CONDITIONS[name].configure(env_cfg)


def share_env_origin(env_cfg: EnvCfg) -> None:
    """Place all of MuJoCo-Warp's separate worlds at the same origin, so that positions are rounded equally in all of them.

    The result of a world then does not depend on the number of worlds.
    """
    if get_newton_solver(env_cfg) == "MJWarpSolverCfg":
        env_cfg.scene.env_spacing = 0.0


class IsaacLabConditionGroups(ConditionGroups):
    """Conditions on consecutive groups of Isaac Lab's environments; all groups have the same robots.

    In MuJoCo-Warp, the physics of a world is bit-identical for any number of other worlds. A policy's matrix products may round
    differently in a larger batch, which changes the course of a walking robot's episode.
    """

    def prepare(self) -> None:
        env, names = self.env, self.names
        self._share_robots()
        obs = self.restart()
        self.shapes = [tuple(obs[group].shape[1:]) for group in self.groups]
        self.frames = make_history_layout(env.unwrapped, self.groups, self.shapes)
        new = len(self.frames.new)
        has_history = new < len(self.frames.age)
        if has_history:  # every column of the newest frame is a sensor
            sensors = torch.arange(new, device=env.device)
        else:
            sensors = map_values_to_sensors(self.shapes, env.device)
        needs_std = "observation_noise" in names
        std = self._measure_observation_std() if needs_std else torch.zeros(new, device=env.device)
        damage_step = int(env.max_episode_length) // 2
        self.conditions: list[EvalCondition] = [
            CONDITIONS[name](EnvGroup(env.unwrapped, ids, self.seed, sensors, std, damage_step, self.leg))
            for name, ids in zip(self.names, self.ids, strict=True)
        ]
        self.texts = [condition.text for condition in self.conditions]
        self.damages = [condition.damages for condition in self.conditions]

    def _share_robots(self) -> None:
        """Apply the task's start-up events, such as random masses, to each group with the same random numbers.

        Isaac Lab has applied them to all environments with different ones.
        """
        events = getattr(self.env.unwrapped, "event_manager", None)
        if events is None or "startup" not in events.available_modes:
            return
        for ids in self.ids:
            with seed_torch(self.seed, self.env.device):
                events.apply("startup", env_ids=ids.int())

    def begin(self) -> None:
        for condition in self.conditions:
            condition.begin()
        self.frames.reset()

    def step(self) -> None:
        for condition in self.conditions:
            condition.step()

    def reset(self, dones: Tensor) -> None:
        for condition in self.conditions:
            condition.reset(dones[condition.group.ids])
        self.frames.reset(dones)

    def perturb_policy(self, policy: InferencePolicy, index: int) -> list[InferencePolicy]:
        return self.conditions[index].perturb_policy(policy)

    def perturb_observations(self, obs: TensorDict) -> TensorDict:
        values = self.frames.select_newest(self._flatten(obs))
        seen = self.frames.assemble(
            torch.cat([c.perturb_observations(values[c.group.ids]) for c in self.conditions])
        )
        perturbed, parts = obs.copy(), seen.split([math.prod(shape) for shape in self.shapes], dim=1)
        for group, part, shape in zip(self.groups, parts, self.shapes, strict=True):
            perturbed[group] = part.unflatten(1, shape)
        return perturbed

    def perturb_actions(self, actions: Tensor) -> Tensor:
        return torch.cat([c.perturb_actions(actions[c.group.ids]) for c in self.conditions])

    def _flatten(self, obs: TensorDict) -> Tensor:
        """Return the policy's flat observations in ``obs``, [B, C]."""
        return torch.cat([obs[group].flatten(1) for group in self.groups], dim=1)

    def _measure_observation_std(self) -> Tensor:
        """Return the standard deviation of every observed value, [C], under random actions.

        Only the first group's first episodes count: the initial states of later ones depend on the number of environments.
        """
        policy, seen, obs = self.make_random_policy(), [], self.restart()
        first = torch.ones(self.episodes, dtype=torch.bool, device=self.env.device)
        for _ in range(SCALE_STEPS):
            seen.append(self.frames.select_newest(self._flatten(obs))[: self.episodes][first])
            obs, _, dones, _ = self.env.step(policy(obs))
            first = first & (dones[: self.episodes] == 0)
        return torch.cat(seen).std(dim=0, correction=0)
