"""Damage to a robot in the middle of an episode: a leg locks, motors weaken, the ground or the load changes."""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.hosts.isaaclab.conditions.base import ConditionError, Damage, EvalCondition
from spiky_rl.hosts.isaaclab.conditions.body import (
    JOINT_FRICTION,
    SURFACE_FRICTION,
    apply_event_term,
    change_friction,
    find_robot,
    use_robot_friction,
)  # fmt: skip
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

LOCK_ARMATURE = 1e4
"""Inertia of a locked joint, kg m^2 or kg: a robot's torque turns it by less than 1e-6 rad in a control step, after which its
position is restored."""
STRENGTH = 0.5
"""Remaining share of a weakened motor's torque."""
PAYLOAD = (1.5, 2.5)
"""Range of the factor of the loaded body's mass."""


class LockedLeg(Damage):
    """Leg with locked joints."""

    text = "from the middle of the episode on, the joints of one leg are locked"
    requirements = ("robot", "worlds", "leg")

    def begin(self) -> None:
        super().begin()
        self.robot = find_robot(self.group.env)[1]
        try:
            self.joints: list[int] = self.robot.find_joints(self.group.leg)[0]  # type: ignore[assignment]
        except ValueError:
            raise ConditionError(
                f"--conditions: locked_leg: the task file's leg {self.group.leg!r} matches no joint; allowed:"
                f" {', '.join(self.robot.joint_names)}"
            ) from None
        self.ids = self.group.ids.int()
        self.position: Tensor | None = None

    def get_joint_positions(self) -> Tensor:
        """Return the positions of the leg's joints, [E, joints], clamped to their limits, which would push them back."""
        limits = self.robot.data.joint_pos_limits.torch[self.group.ids][:, self.joints]
        return self.robot.data.joint_pos.torch[self.group.ids][:, self.joints].clamp(
            limits[..., 0], limits[..., 1]
        )

    def apply_damage(self) -> None:
        self.position = self.get_joint_positions()
        armature = torch.full_like(self.position, LOCK_ARMATURE)
        self.robot.write_joint_armature_to_sim_index(
            armature=armature, joint_ids=self.joints, env_ids=self.ids
        )

    def step(self) -> None:
        super().step()
        if self.position is None:
            return
        still = torch.zeros_like(self.position)
        where = {"joint_ids": self.joints, "env_ids": self.ids}
        self.robot.write_joint_position_to_sim_index(position=self.position, **where)
        self.robot.write_joint_velocity_to_sim_index(velocity=still, **where)

    def reset(self, dones: Tensor) -> None:
        if self.position is not None:
            self.position = torch.where(dones.bool()[:, None], self.get_joint_positions(), self.position)


class HalfTorque(Damage):
    """Weakened motors."""

    text = (
        f"from the middle of the episode on, every motor gives {STRENGTH:g} times its commanded torque; a position-controlled joint"
        f" keeps {STRENGTH:g} times its gains"
    )
    requirements = ("robot", "worlds", "motors")

    @classmethod
    @override
    def configure(cls, env_cfg: EnvCfg) -> None:
        from isaaclab.envs.mdp import JointEffortActionCfg

        from spiky_rl.hosts.isaaclab.conditions.motors import WeakeningEffort

        for term in vars(env_cfg.actions).values():  # type: ignore[union-attr]  # guaranteed by the requirement "motors"
            if isinstance(term, JointEffortActionCfg):
                term.class_type = WeakeningEffort

    def apply_damage(self) -> None:
        from isaaclab.envs import mdp

        from spiky_rl.hosts.isaaclab.conditions.motors import WeakeningEffort

        manager = self.group.env.action_manager  # type: ignore[union-attr]  # guaranteed by the requirement "motors"
        terms = [manager.get_term(name) for name in manager.active_terms]
        weakening = [term for term in terms if isinstance(term, WeakeningEffort)]
        for term in weakening:
            term.strength[self.group.ids] = STRENGTH
        if len(weakening) < len(terms):
            share = (STRENGTH, STRENGTH)
            apply_event_term(
                self.group, mdp.randomize_actuator_gains,
                stiffness_distribution_params=share, damping_distribution_params=share, operation="scale", distribution="uniform",
            )  # fmt: skip


class FrictionChange(Damage):
    """Ground that becomes slippery, or joints that become stiff for a robot with a fixed base."""

    text = (
        f"from the middle of the episode on, friction coefficient of the robot's surfaces U({SURFACE_FRICTION[0]:g},"
        f" {SURFACE_FRICTION[1]:g}); of a robot with a fixed base, dry and viscous friction of U({JOINT_FRICTION[0]:g},"
        f" {JOINT_FRICTION[1]:g}) more in every joint"
    )
    requirements = ("robot", "worlds")

    def begin(self) -> None:
        super().begin()
        if not find_robot(self.group.env)[1].is_fixed_base:
            use_robot_friction(self.group.env)

    def apply_damage(self) -> None:
        change_friction(self.group)


class Payload(Damage):
    """Load that is added in mid-episode."""

    text = (
        f"from the middle of the episode on, mass and inertia of the trunk times U({PAYLOAD[0]:g}, {PAYLOAD[1]:g}); of a robot with"
        " a fixed base, of its last body"
    )
    requirements = ("robot", "worlds")

    def apply_damage(self) -> None:
        from isaaclab.envs import mdp

        robot = find_robot(self.group.env)[1]
        apply_event_term(
            self.group, mdp.randomize_rigid_body_mass, bodies=[robot.num_bodies - 1 if robot.is_fixed_base else 0],
            mass_distribution_params=PAYLOAD, operation="scale", distribution="uniform", recompute_inertia=True, min_mass=1e-6,
        )  # fmt: skip


DAMAGES: dict[str, type[EvalCondition]] = {
    "locked_leg": LockedLeg,
    "half_torque": HalfTorque,
    "friction_change": FrictionChange,
    "payload": Payload,
}
