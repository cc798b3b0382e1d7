"""A task of one's own from a robot's file: the arm of ``arm.urdf`` learns to stand upright, which its motors do not do by themselves.

python scripts/train.py --task examples/own_robot.py:Own-Arm --agent lif_ppo agent.experiment_name=own_arm
"""

from pathlib import Path

import gymnasium
from isaaclab import managers
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg
from isaaclab.envs import ManagerBasedRLEnvCfg, mdp
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg

from spiky_rl.hosts.isaaclab.robot_files import robot_spawn


@configclass
class Scene(InteractiveSceneCfg):
    robot = ArticulationCfg(
        prim_path="{ENV_REGEX_NS}/Robot",
        spawn=robot_spawn(Path(__file__).with_name("arm.urdf")),
        actuators={"motors": ImplicitActuatorCfg(joint_names_expr=[".*"], stiffness=0.0, damping=0.1)},
    )


@configclass
class Actions:
    torque = mdp.JointEffortActionCfg(asset_name="robot", joint_names=[".*"], scale=10.0)


@configclass
class Policy(managers.ObservationGroupCfg):
    position = managers.ObservationTermCfg(func=mdp.joint_pos_rel)
    velocity = managers.ObservationTermCfg(func=mdp.joint_vel_rel)


@configclass
class Observations:
    policy: Policy = Policy()


@configclass
class Events:
    leaning = managers.EventTermCfg(
        func=mdp.reset_joints_by_offset,
        mode="reset",
        params={"position_range": (-0.5, 0.5), "velocity_range": (-0.5, 0.5)},
    )


@configclass
class Rewards:
    alive = managers.RewardTermCfg(func=mdp.is_alive, weight=1.0)
    bent = managers.RewardTermCfg(func=mdp.joint_deviation_l1, weight=-1.0)


@configclass
class Terminations:
    time_out = managers.TerminationTermCfg(func=mdp.time_out, time_out=True)


@configclass
class OwnArm(ManagerBasedRLEnvCfg):
    scene = Scene(num_envs=256, env_spacing=2.0)
    sim = SimulationCfg(dt=0.01, render_interval=2, physics=NewtonCfg(solver_cfg=MJWarpSolverCfg()))
    decimation, episode_length_s = 2, 5.0
    actions, observations, events = Actions(), Observations(), Events()
    rewards, terminations = Rewards(), Terminations()


AGENTS = "isaaclab_tasks.core.cartpole.agents"
gymnasium.register(
    id="Own-Arm",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": OwnArm,
        "rsl_rl_cfg_entry_point": f"{AGENTS}.rsl_rl_ppo_cfg:CartpolePPORunnerCfg",
        "skrl_cfg_entry_point": f"{AGENTS}:skrl_manager_ppo_cfg.yaml",
    },
)
