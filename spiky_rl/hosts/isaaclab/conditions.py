"""Conditions that a policy is measured under: nominal, sensors that err, pushes, other masses, other friction.

A condition acts on some environments of a simulation and leaves the others alone, so that all of them are measured in one.
What changes the physics are Isaac Lab's own event terms. Everything random is drawn from the condition's own seed: the same
for every policy, and whatever else is measured beside it.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from spiky_rl.registry import UserError, nearest

NOISE = 0.1
"""Standard deviation of sensor noise, in that of the sensor itself: 10 % of what there is to read."""
DROPOUT = 0.3
"""Probability that a sensor reads nothing in a control step."""
BASE_PUSH = 3.0
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


class ConditionError(UserError):
    """A condition that there is not, or that a task cannot be put under."""


@dataclass(frozen=True)
class Group:
    """The environments that a condition acts on."""

    env: Any
    """The simulation, Isaac Lab's own environment without wrappers."""
    ids: Tensor
    """Indices of the environments, [E]."""
    seed: int
    """Of everything that the condition draws."""
    sensors: Tensor
    """Which sensor each observed value comes from, [C]: see `sensors_of`."""
    deviation: Tensor
    """Standard deviation of each observed value under random actions, [C]."""


class Condition(ABC):
    """What is done to a group of environments."""

    text: ClassVar[str]
    """One line: what is done, with its magnitude."""
    robot: ClassVar[bool] = False
    """Whether it acts on the robot, and not on what the policy observes."""
    model: ClassVar[bool] = False
    """Whether it changes what the physics solver was made with."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.generator = torch.Generator(group.ids.device).manual_seed(group.seed)

    def begin(self) -> None:
        """Once, where the group's episodes begin."""

    def observe(self, values: Tensor) -> Tensor:
        """What the policy gets to see of ``values`` [E, C]."""
        return values

    def step(self) -> None:
        """Before every control step."""

    def uniform(self, *size: int) -> Tensor:
        """Numbers between 0 and 1, from the group's seed."""
        return torch.rand(size, generator=self.generator, device=self.generator.device)


class Nominal(Condition):
    """As trained."""

    text = "nothing changed"


class ObservationNoise(Condition):
    """White noise on everything observed."""

    text = f"Gaussian noise on every observed value, {NOISE:g} of its standard deviation under random actions"

    def observe(self, values: Tensor) -> Tensor:  # noqa: D102
        noise = torch.randn(values.shape, generator=self.generator, device=values.device)
        return values + NOISE * self.group.deviation * noise


class SensorDropout(Condition):
    """Sensors that fail now and then."""

    text = f"every sensor reads 0 with a probability of {DROPOUT:g} in each control step"

    def observe(self, values: Tensor) -> Tensor:  # noqa: D102
        sensors = self.group.sensors
        lost = self.uniform(len(values), int(sensors.max()) + 1) < DROPOUT
        return values.masked_fill(lost[:, sensors], 0.0)


class SensorLoss(Condition):
    """One sensor that has failed for good."""

    text = "one sensor reads 0 for the whole episode, each in as many episodes as any other"

    def observe(self, values: Tensor) -> Tensor:  # noqa: D102
        sensors, episodes = self.group.sensors, torch.arange(len(values), device=values.device)
        # where there are fewer episodes than sensors, those that are lost lie evenly among the others
        lost = episodes * (int(sensors.max()) + 1) // len(values)
        return values.masked_fill(lost[:, None] == sensors, 0.0)


class Push(Condition):
    """Impulses that nobody announces."""

    text = (
        f"every {PUSH_SECONDS[0]:g} to {PUSH_SECONDS[1]:g} s a push: up to {BASE_PUSH:g} m/s more or less along x and y; of a"
        f" robot with a fixed base, up to {JOINT_PUSH:g} m/s or rad/s in every joint"
    )
    robot = True

    def begin(self) -> None:  # noqa: D102
        self.left = self._interval(len(self.group.ids))

    def step(self) -> None:  # noqa: D102
        self.left = self.left - self.group.env.step_dt
        due = self.left <= 0.0
        self.left = torch.where(due, self._interval(len(due)), self.left)
        if due.any():
            self._push(self.group.ids[due])

    def _interval(self, count: int) -> Tensor:
        shortest, longest = PUSH_SECONDS
        return shortest + (longest - shortest) * self.uniform(count)

    def _push(self, ids: Tensor) -> None:
        from isaaclab.envs import mdp

        env, (name, robot) = self.group.env, robot_of(self.group.env)
        if robot.is_fixed_base:
            # Isaac Lab's term sets the velocity of the root, which here cannot move: this is its like for joints
            change = JOINT_PUSH * (2.0 * self.uniform(len(ids), robot.num_joints) - 1.0)
            velocity = robot.data.joint_vel.torch[ids] + change
            robot.write_joint_velocity_to_sim_index(velocity=velocity, env_ids=ids.int())
            return
        reach = {axis: (-BASE_PUSH, BASE_PUSH) for axis in ("x", "y")}
        seed = int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))
        with drawing(seed, env.device):
            mdp.push_by_setting_velocity(env, ids.int(), reach, entity(env, name))


class Mass(Condition):
    """A robot of other masses."""

    text = f"mass and inertia of every body times {MASS[0]:g} to {MASS[1]:g}, log-uniform"
    robot = model = True

    def begin(self) -> None:  # noqa: D102
        from isaaclab.envs import mdp

        apply(
            self.group, mdp.randomize_rigid_body_mass,
            mass_distribution_params=MASS, operation="scale", distribution="log_uniform", recompute_inertia=True, min_mass=1e-6,
        )  # fmt: skip


class Friction(Condition):
    """Slippery ground or, for a robot that stands on none, stiff joints."""

    text = (
        f"friction coefficient of the robot's surfaces U({SURFACE_FRICTION[0]:g}, {SURFACE_FRICTION[1]:g}); of a robot with a"
        f" fixed base, dry and viscous friction of U({JOINT_FRICTION[0]:g}, {JOINT_FRICTION[1]:g}) N (s/m) or N m (s/rad) more in every joint"
    )
    robot = model = True

    def begin(self) -> None:  # noqa: D102
        from isaaclab.envs import mdp

        if robot_of(self.group.env)[1].is_fixed_base:
            apply(
                self.group, mdp.randomize_joint_parameters,
                friction_distribution_params=JOINT_FRICTION, operation="add", distribution="uniform",
                armature_distribution_params=None, lower_limit_distribution_params=None, upper_limit_distribution_params=None,
            )  # fmt: skip
            return
        give_friction_to_robots(self.group.env)
        apply(
            self.group, mdp.randomize_rigid_body_material,
            static_friction_range=SURFACE_FRICTION, dynamic_friction_range=SURFACE_FRICTION,
            restitution_range=(0.0, 0.0), num_buckets=64, make_consistent=True,
        )  # fmt: skip


CONDITIONS: Mapping[str, type[Condition]] = MappingProxyType(
    {
        "nominal": Nominal,
        "observation_noise": ObservationNoise,
        "sensor_dropout": SensorDropout,
        "sensor_loss": SensorLoss,
        "push": Push,
        "mass": Mass,
        "friction": Friction,
    }
)
"""By name; to add one, write a class and a line here."""


def chosen(names: str) -> list[str]:
    """The conditions of a comma-separated list or of ``all``; nominal is always one, the first.

    Raises ConditionError for one that there is not, or that is named twice.
    """
    if names == "all":
        return list(CONDITIONS)
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in CONDITIONS:
            raise ConditionError(
                f"--conditions: {name!r} is not known; choose from {', '.join(CONDITIONS)}, or all{nearest(name, CONDITIONS)}"
            )
        if found.count(name) > 1:
            raise ConditionError(f"--conditions: {name!r} is named {found.count(name)} times")
    return ["nominal", *(name for name in found if name != "nominal")]


def require(names: Sequence[str], env_cfg: Any, task: str) -> None:
    """Raise ConditionError where a task cannot be put under a condition.

    Those that act on the robot need a scene that says which that is. Solvers of Newton's other than MuJoCo-Warp ignore what
    changes in their model, or share it among all worlds.
    """
    from isaaclab.assets import ArticulationCfg

    there = [key for key, value in vars(env_cfg.scene).items() if isinstance(value, ArticulationCfg)]
    if "robot" not in there and len(there) != 1:
        reason = f"its scene declares {', '.join(there) or 'no robot'}, where one articulation is needed, or one called 'robot'"
        _refuse([name for name in names if CONDITIONS[name].robot], task, reason)
    solver = newton_solver(env_cfg)
    if solver not in (None, "MJWarpSolverCfg"):
        reason = f"{solver} cannot change single worlds; use physics=newton_mjwarp"
        _refuse([name for name in names if CONDITIONS[name].model], task, reason)


def _refuse(names: Sequence[str], task: str, reason: str) -> None:
    if names:
        others = ", ".join(name for name in CONDITIONS if name not in names)
        raise ConditionError(
            f"--conditions: {', '.join(names)} cannot be had on {task}: {reason}; without: {others}"
        )


def newton_solver(env_cfg: Any) -> str | None:
    """The solver by the name of its configuration; None where the physics is not Newton's."""
    from isaaclab_newton.physics import NewtonCfg

    physics = env_cfg.sim.physics
    return type(physics.solver_cfg).__name__ if isinstance(physics, NewtonCfg) else None


def robot_of(env: Any) -> tuple[str, Any]:
    """Name and articulation of the scene's robot."""
    there = env.scene.articulations
    name = "robot" if "robot" in there else next(iter(there))
    return name, there[name]


def entity(env: Any, name: str) -> Any:
    """All of an asset, as event terms take it."""
    from isaaclab.managers import SceneEntityCfg

    found = SceneEntityCfg(name)
    found.resolve(env.scene)
    return found


def apply(group: Group, term: Any, **params: Any) -> None:
    """Let one of Isaac Lab's event terms change the robots of a group, all bodies and joints; all its parameters are named."""
    from isaaclab.managers import EventTermCfg

    env = group.env
    params["asset_cfg"] = entity(env, robot_of(env)[0])
    with drawing(group.seed, env.device):
        term(EventTermCfg(func=term, mode="evaluation", params=params), env)(env, group.ids.int(), **params)


def give_friction_to_robots(env: Any) -> None:
    """Let the robots' friction be that of their contacts with the ground, without a change to these contacts.

    MuJoCo takes the larger of two coefficients, so a robot on rough ground never slips: the ground hands its own over, and
    what was smoother gets it. Nothing to do for other physics, which take the mean.
    """
    manager = env.sim.physics_manager
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


@contextmanager
def drawing(seed: int, device: Any) -> Iterator[None]:
    """Torch's own random numbers, which the simulator takes, from ``seed``; afterwards they go on as if nobody had drawn."""
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def sensors_of(shapes: Sequence[Sequence[int]], device: Any = None) -> Tensor:
    """Which sensor each value comes from, [C], of observations of these shapes, flat and one after another.

    Of a vector every column is a sensor; of an image [channels, height, width], every column of pixels.
    """
    found, count = [], 0
    for shape in shapes:
        found.append(torch.arange(count, count + shape[-1], device=device).repeat(math.prod(shape[:-1])))
        count += shape[-1]
    return torch.cat(found)
