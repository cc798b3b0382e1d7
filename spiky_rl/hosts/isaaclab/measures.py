"""Measures of a task's aim per episode, beside its reward: metres run, seconds upright, commands followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spiky_rl.hosts.isaaclab.workflows import Env, WrappedEnv

if TYPE_CHECKING:
    from isaaclab.envs.mdp import UniformVelocityCommand


class EpisodeMeasures:
    """Follows every environment's episode: call ``step`` after each environment step, ``restart`` after a full reset.

    An environment that is done has already begun its next episode, so its last position is the one of the step before.
    """

    def __init__(self, env: WrappedEnv) -> None:
        self.env = env.unwrapped
        self.steps = torch.zeros(self.env.num_envs, dtype=torch.long, device=self.env.device)
        articulations = self.env.scene.articulations
        self.robot = articulations.get("robot")
        if self.robot is not None and self.robot.is_fixed_base:
            self.robot = None
        self.command = get_commanded_velocity(self.env)
        self.reset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of an episode's measures.

        ``upright`` [seconds] everywhere, ``distance`` [metres] where the robot is free to go, ``velocity_error`` [m/s] where it
        is told how fast: how far its velocity is from that along x and y, on average over the episode.
        """
        free = () if self.robot is None else ("distance",)
        return ("upright", *free, *(() if self.command is None else ("velocity_error",)))

    def reset(self) -> None:
        """All environments begin a new episode where they are now."""
        self.steps.zero_()
        self.start = self.last = self.get_positions()
        if self.command is not None:
            self.off, self.told = (
                torch.zeros(len(self.steps), device=self.env.device),
                self.command.command.clone(),
            )

    def step(self, dones: torch.Tensor) -> dict[str, torch.Tensor]:
        """The measures of the episodes that ``dones`` [B] ends, by name, each [number of ended episodes]."""
        self.steps += 1
        ended = dones.bool()
        measures = {"upright": self.steps[ended] * self.env.step_dt}
        if self.robot is not None:
            measures["distance"] = (self.last - self.start)[ended].norm(dim=-1)
            self.last = self.get_positions()
            self.start = torch.where(ended[:, None], self.last, self.start)
        if self.command is not None:
            velocity = self.command.robot.data.root_lin_vel_b.torch
            self.off += (velocity[:, :2] - self.told[:, :2]).norm(dim=-1) * ~ended
            measures["velocity_error"] = self.off[ended] / (self.steps[ended] - 1).clamp(min=1)
            self.off, self.told = self.off * ~ended, self.command.command.clone()
        self.steps = self.steps * ~ended
        return measures

    def get_positions(self) -> torch.Tensor:
        """Where the robots stand now: [B, 2], metres; [B, 0] for those that cannot go."""
        if self.robot is None:
            return torch.zeros(len(self.steps), 0)
        return self.robot.data.root_link_pos_w.torch[:, :2].clone()


def get_commanded_velocity(env: Env) -> UniformVelocityCommand | None:
    """The command of a velocity in an ``env``, which is Isaac Lab's in the base's frame; None where the task has none."""
    from isaaclab.envs import mdp

    manager = getattr(env, "command_manager", None)
    terms = [] if manager is None else [manager.get_term(name) for name in manager.active_terms]
    return next((term for term in terms if isinstance(term, mdp.UniformVelocityCommand)), None)
