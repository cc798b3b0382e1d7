"""Velocity task of Unitree's quadruped Go1 on flat ground: Isaac Lab's task with a robot that needs no asset server.

Commands, observations, rewards, events and terminations are those of ``IsaacContrib-Velocity-Flat-UnitreeGo1``. The robot's
file, its actuators and the solver's settings differ.
"""

from __future__ import annotations

from typing import Any

from isaaclab.actuators import DCMotorCfg
from isaaclab.utils import configclass, replace
from isaaclab_assets.robots.unitree import UNITREE_GO1_CFG
from isaaclab_tasks.contrib.velocity.config.go1.flat_env_cfg import UnitreeGo1FlatEnvCfg

from spiky_rl.hosts.isaaclab.robot_files import robot_spawn
from spiky_rl.hosts.isaaclab.wheel_assets import MJLAB, get_wheel_folder

ROBOT = "mjlab/asset_zoo/robots/unitree_go1/xmls/go1.xml"
"""The robot's file in mjlab's wheel."""
TORQUES = {".*_hip_joint": 23.7, ".*_thigh_joint": 23.7, ".*_calf_joint": 35.55}
"""Maximum torque of a joint, N m; the knee has an additional gear ratio of 1.5."""
SPEEDS = {".*_hip_joint": 30.1, ".*_thigh_joint": 30.1, ".*_calf_joint": 20.06}
"""Maximum speed of a joint, rad/s."""
ARMATURES = {".*_hip_joint": 0.004026, ".*_thigh_joint": 0.004026, ".*_calf_joint": 0.009059}
"""Inertia of a joint's rotor behind its gear, kg m^2: 1.11842e-4 times 6 squared, and 9 squared (Unitree's URDF)."""


@configclass
class Go1FlatEnvCfg(UnitreeGo1FlatEnvCfg):
    """Isaac Lab's flat velocity task of the Go1 with the robot of mjlab's wheel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        theirs: Any = UNITREE_GO1_CFG.spawn
        self.scene.robot = replace(
            UNITREE_GO1_CFG,
            prim_path="{ENV_REGEX_NS}/Robot",
            spawn=robot_spawn(
                get_wheel_folder(MJLAB) / ROBOT,
                activate_contact_sensors=True,
                articulation_props=theirs.articulation_props,
            ),
            # Isaac Lab's actuator network is on the asset server: use the PD gains of its source (Walk These Ways)
            actuators={
                "base_legs": DCMotorCfg(
                    joint_names_expr=list(TORQUES),
                    effort_limit=TORQUES,
                    saturation_effort=TORQUES,
                    velocity_limit=SPEEDS,
                    stiffness=20.0,
                    damping=0.5,
                    armature=ARMATURES,
                )
            },
        )
        # the feet are spheres of the calves here, not separate bodies
        self.rewards.feet_air_time.params["sensor_cfg"].body_names = ".*_calf"
        # the command's arrows need files of the asset server
        self.commands.base_velocity.debug_vis = False

        # MuJoCo's own contacts suffice for capsules and spheres on a plane, with one step of 5 ms as in mjlab
        physics: Any = self.sim.physics
        newton = physics.newton_mjwarp
        newton.solver_cfg.use_mujoco_contacts = True
        newton.solver_cfg.njmax, newton.solver_cfg.nconmax = 160, 40
        newton.collision_cfg = None
        newton.num_substeps = 1
        physics.default = newton
