"""Conditions on the robot and its surroundings: pushes, other masses, other friction.

What changes the physics are Isaac Lab's own event terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition
from spiky_rl.hosts.isaaclab.seeding import seed_torch
from spiky_rl.hosts.isaaclab.workflows import Env

if TYPE_CHECKING:
    from isaaclab.assets import Articulation
    from isaaclab.managers import SceneEntityCfg

BASE_PUSH_SPEED = 3.0
"""Greatest change of a base's velocity by a push, along x and along y, in m/s: about the speed of a trained Ant, which loses a
tenth of its return; 1 m/s, twice what Isaac Lab's walking tasks train with, it does not notice."""
JOINT_PUSH = 5.0
"""That of a joint's velocity where the base is fixed, in m/s or rad/s."""
PUSH_SECONDS = (1.0, 3.0)
"""From one push to the next."""
MASS = (0.5, 2.0)
"""Factor of a body's mass: as likely half as twice."""
SURFACE_FRICTION = (0.2, 0.6)
"""Coefficient of friction of a robot's surfaces: wet to dry plastic, where Isaac Lab's robots have 1."""
JOINT_FRICTION = (0.0, 1.0)
"""Dry friction in every joint, N or N m, and viscous friction, N s/m or N m s/rad."""


class Push(EvalCondition):
    """Random velocity pushes."""

    text = (
        f"every {PUSH_SECONDS[0]:g} to {PUSH_SECONDS[1]:g} s a push: up to {BASE_PUSH_SPEED:g} m/s more or less along x and y; of a"
        f" robot with a fixed base, up to {JOINT_PUSH:g} m/s or rad/s in every joint"
    )
    requirements = ("robot",)

    def begin(self) -> None:
        self.left = self._interval(len(self.group.ids))

    def step(self) -> None:
        self.left = self.left - self.group.env.step_dt
        due = self.left <= 0.0
        self.left = torch.where(due, self._interval(len(due)), self.left)
        if due.any():
            self._push(self.group.ids[due])

    def _interval(self, count: int) -> Tensor:
        shortest, longest = PUSH_SECONDS
        return shortest + (longest - shortest) * self.sample_uniform(count)

    def _push(self, ids: Tensor) -> None:
        from isaaclab.envs import mdp

        env, (name, robot) = self.group.env, find_robot(self.group.env)
        if robot.is_fixed_base:
            # Isaac Lab's term sets the velocity of the root, which here cannot move: this is its like for joints
            change = JOINT_PUSH * (2.0 * self.sample_uniform(len(ids), robot.num_joints) - 1.0)
            velocity = robot.data.joint_vel.torch[ids] + change
            robot.write_joint_velocity_to_sim_index(velocity=velocity, env_ids=ids.int())
            return
        reach = {"x": (-BASE_PUSH_SPEED, BASE_PUSH_SPEED), "y": (-BASE_PUSH_SPEED, BASE_PUSH_SPEED)}
        seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
        with seed_torch(seed, env.device):
            mdp.push_by_setting_velocity(env, ids.int(), reach, make_scene_entity_cfg(env, name))  # type: ignore[arg-type]  # its scene does


class Mass(EvalCondition):
    """A robot of other masses."""

    text = f"mass and inertia of every body times {MASS[0]:g} to {MASS[1]:g}, log-uniform"
    requirements = ("robot", "worlds")

    def begin(self) -> None:
        from isaaclab.envs import mdp

        apply_event_term(
            self.group, mdp.randomize_rigid_body_mass,
            mass_distribution_params=MASS, operation="scale", distribution="log_uniform", recompute_inertia=True, min_mass=1e-6,
        )  # fmt: skip


class Friction(EvalCondition):
    """Slippery ground or, for a robot that stands on none, stiff joints."""

    text = (
        f"friction coefficient of the robot's surfaces U({SURFACE_FRICTION[0]:g}, {SURFACE_FRICTION[1]:g}); of a robot with a"
        f" fixed base, dry and viscous friction of U({JOINT_FRICTION[0]:g}, {JOINT_FRICTION[1]:g}) N (s/m) or N m (s/rad) more in every joint"
    )
    requirements = ("robot", "worlds")

    def begin(self) -> None:
        change_friction(self.group)


def change_friction(group: EnvGroup) -> None:
    """Give the robots of a ``group`` other friction: on the ground, or in their joints where they stand on none."""
    from isaaclab.envs import mdp

    if find_robot(group.env)[1].is_fixed_base:
        apply_event_term(
            group, mdp.randomize_joint_parameters,
            friction_distribution_params=JOINT_FRICTION, operation="add", distribution="uniform",
            armature_distribution_params=None, lower_limit_distribution_params=None, upper_limit_distribution_params=None,
        )  # fmt: skip
        return
    use_robot_friction(group.env)
    apply_event_term(
        group, mdp.randomize_rigid_body_material,
        static_friction_range=SURFACE_FRICTION, dynamic_friction_range=SURFACE_FRICTION,
        restitution_range=(0.0, 0.0), num_buckets=64, make_consistent=True,
    )  # fmt: skip


def find_robot(env: Env) -> tuple[str, Articulation]:
    """Name and articulation of the robot in an ``env``."""
    there = env.scene.articulations
    name = "robot" if "robot" in there else next(iter(there))
    return name, there[name]


def make_scene_entity_cfg(env: Env, name: str, bodies: list[int] | None = None) -> SceneEntityCfg:
    """An asset as event terms take it.

    Args:
        env: Where it is.
        name: Name of the asset.
        bodies: Indices of some of its bodies; None: all.
    """
    from isaaclab.managers import SceneEntityCfg

    found = SceneEntityCfg(name) if bodies is None else SceneEntityCfg(name, body_ids=bodies)
    found.resolve(env.scene)
    return found


def apply_event_term(
    group: EnvGroup,
    term: Callable[..., Any],
    bodies: list[int] | None = None,
    **params: object,
) -> None:
    """Let one of Isaac Lab's event terms change the robots of a group.

    Args:
        group: The environments.
        term: The term's class.
        bodies: Indices of the bodies that it changes; None: all bodies, and all joints.
        params: All of the term's parameters but the asset, by name.
    """
    from isaaclab.managers import EventTermCfg

    env = group.env
    params["asset_cfg"] = make_scene_entity_cfg(env, find_robot(env)[0], bodies)
    with seed_torch(group.seed, env.device):
        term(EventTermCfg(func=term, mode="evaluation", params=params), env)(env, group.ids.int(), **params)


def use_robot_friction(env: Env) -> None:
    """Let the friction of the robots in ``env`` be that of their contacts with the ground, without a change to these contacts.

    MuJoCo takes the larger of two coefficients, so a robot on rough ground never slips: the ground hands its own over, and
    what was smoother gets it. Nothing to do for other physics, which take the mean.
    """
    manager: Any = env.sim.physics_manager  # Newton's, where it has a model
    if not hasattr(manager, "get_model"):
        return
    import warp
    from newton import ModelFlags

    model = manager.get_model()
    friction = warp.to_torch(model.shape_material_mu)
    common = warp.to_torch(model.shape_world) < 0
    if common.any():
        friction[~common] = friction[~common].clamp(min=float(friction[common].max()))
        friction[common] = 0.0
        manager.add_model_change(ModelFlags.SHAPE_PROPERTIES)
