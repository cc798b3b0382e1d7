"""Conditions on the robot and its surroundings: pushes, changed masses, changed friction.

Isaac Lab's own event terms make the changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spiky_rl.hosts.environment import seed_torch
from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition
from spiky_rl.hosts.isaaclab.workflows import Env

if TYPE_CHECKING:
    from isaaclab.assets import Articulation
    from isaaclab.managers import SceneEntityCfg

BASE_PUSH_SPEED = 3.0
"""Maximum change of a base's velocity by a push, along x and along y, in m/s. It is about the speed of a trained Ant, which then loses
a tenth of its return. Pushes of 1 m/s, twice the value in Isaac Lab's walking tasks, do not change that return."""
JOINT_PUSH = 5.0
"""Maximum change of a joint's velocity by a push if the base is fixed, in m/s or rad/s."""
PUSH_SECONDS = (1.0, 3.0)
"""Range of the interval between pushes."""
MASS = (0.5, 2.0)
"""Range of the factor of a body's mass, log-uniform."""
SURFACE_FRICTION = (0.2, 0.6)
"""Coefficient of friction of a robot's surfaces: wet to dry plastic; Isaac Lab's robots have 1."""
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
        self.seconds_to_push = self._draw_intervals(len(self.group.ids))

    def step(self) -> None:
        self.seconds_to_push = self.seconds_to_push - self.group.env.step_dt
        due = self.seconds_to_push <= 0.0
        self.seconds_to_push = torch.where(due, self._draw_intervals(len(due)), self.seconds_to_push)
        if due.any():
            self._push(self.group.ids[due])

    def _draw_intervals(self, count: int) -> Tensor:
        shortest, longest = PUSH_SECONDS
        return shortest + (longest - shortest) * self.sample_uniform(count)

    def _push(self, ids: Tensor) -> None:
        from isaaclab.envs import mdp

        env, (name, robot) = self.group.env, find_robot(self.group.env)
        if robot.is_fixed_base:
            # the root is fixed, and Isaac Lab's term would set its velocity, so the joints are pushed instead
            change = JOINT_PUSH * (2.0 * self.sample_uniform(len(ids), robot.num_joints) - 1.0)
            velocity = robot.data.joint_vel.torch[ids] + change
            robot.write_joint_velocity_to_sim_index(velocity=velocity, env_ids=ids.int())
            return
        velocity_range = {"x": (-BASE_PUSH_SPEED, BASE_PUSH_SPEED), "y": (-BASE_PUSH_SPEED, BASE_PUSH_SPEED)}
        seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
        with seed_torch(seed, env.device):
            mdp.push_by_setting_velocity(env, ids.int(), velocity_range, make_scene_entity_cfg(env, name))  # type: ignore[arg-type]  # its scene does


class Mass(EvalCondition):
    """Changed masses of the robot's bodies."""

    text = f"mass and inertia of every body times {MASS[0]:g} to {MASS[1]:g}, log-uniform"
    requirements = ("robot", "worlds")

    def begin(self) -> None:
        from isaaclab.envs import mdp

        apply_event_term(
            self.group, mdp.randomize_rigid_body_mass,
            mass_distribution_params=MASS, operation="scale", distribution="log_uniform", recompute_inertia=True, min_mass=1e-6,
        )  # fmt: skip


class Friction(EvalCondition):
    """Slippery ground, or stiff joints for a robot with a fixed base."""

    text = (
        f"friction coefficient of the robot's surfaces U({SURFACE_FRICTION[0]:g}, {SURFACE_FRICTION[1]:g}); of a robot with a"
        f" fixed base, dry and viscous friction of U({JOINT_FRICTION[0]:g}, {JOINT_FRICTION[1]:g}) N (s/m) or N m (s/rad) more in every joint"
    )
    requirements = ("robot", "worlds")

    def begin(self) -> None:
        change_friction(self.group)


def change_friction(group: EnvGroup) -> None:
    """Change the friction of the robots in a ``group``: on the ground, or in the joints if the base is fixed."""
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
    """Return name and articulation of the robot in an ``env``."""
    articulations = env.scene.articulations
    name = "robot" if "robot" in articulations else next(iter(articulations))
    return name, articulations[name]


def make_scene_entity_cfg(env: Env, name: str, bodies: list[int] | None = None) -> SceneEntityCfg:
    """Return the resolved configuration of the asset ``name`` in ``env`` for event terms; ``bodies``: indices of bodies, None for all."""
    from isaaclab.managers import SceneEntityCfg

    entity_cfg = SceneEntityCfg(name) if bodies is None else SceneEntityCfg(name, body_ids=bodies)
    entity_cfg.resolve(env.scene)
    return entity_cfg


def apply_event_term(
    group: EnvGroup,
    term: Callable[..., Any],
    bodies: list[int] | None = None,
    **params: object,
) -> None:
    """Apply one of Isaac Lab's event terms, a class, to the robots of a ``group``.

    ``bodies`` are the indices of the changed bodies, None for all bodies and joints; ``params`` are the term's besides the asset.
    """
    from isaaclab.managers import EventTermCfg

    env = group.env
    name, _ = find_robot(env)
    params["asset_cfg"] = make_scene_entity_cfg(env, name, bodies)
    with seed_torch(group.seed, env.device):
        apply = term(EventTermCfg(func=term, mode="evaluation", params=params), env)
        apply(env, group.ids.int(), **params)


def use_robot_friction(env: Env) -> None:
    """Set the ground's friction to 0 and raise the robots' to at least its former value, so that the robots' friction decides.

    The friction of their contacts stays the same, because MuJoCo takes the larger of two coefficients. For the same reason a robot on
    rough ground would never slip. Other physics take the mean and are not changed.
    """
    manager: Any = env.sim.physics_manager
    # only the manager of Newton, which runs MuJoCo's solvers, has a model
    if not hasattr(manager, "get_model"):
        return
    import warp
    from newton import ModelFlags

    model = manager.get_model()
    friction = warp.to_torch(model.shape_material_mu)
    is_ground = warp.to_torch(model.shape_world) < 0  # shapes of no single world
    if is_ground.any():
        friction[~is_ground] = friction[~is_ground].clamp(min=float(friction[is_ground].max()))
        friction[is_ground] = 0.0
        manager.add_model_change(ModelFlags.SHAPE_PROPERTIES)
