"""A task with an asymmetric critic: Isaac Lab's Cartpole, whose velocities only the critic observes.

python scripts/train.py --task examples/asymmetric_critic.py:Own-Asymmetric-Cartpole --agent examples/asymmetric_ppo.yaml
"""

import gymnasium
from isaaclab.envs import mdp
from isaaclab.managers import ObservationGroupCfg, ObservationTermCfg
from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg


@configclass
class Positions(ObservationGroupCfg):
    joint_pos_rel = ObservationTermCfg(func=mdp.joint_pos_rel)


@configclass
class PositionsAndVelocities(Positions):
    joint_vel_rel = ObservationTermCfg(func=mdp.joint_vel_rel)


@configclass
class Observations:
    policy: Positions = Positions()
    critic: PositionsAndVelocities = PositionsAndVelocities()


@configclass
class AsymmetricCartpole(CartpoleEnvCfg):
    observations = Observations()


AGENTS = "isaaclab_tasks.core.cartpole.agents"
gymnasium.register(
    id="Own-Asymmetric-Cartpole",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": AsymmetricCartpole,
        "rsl_rl_cfg_entry_point": f"{AGENTS}.rsl_rl_ppo_cfg:CartpolePPORunnerCfg",
        "skrl_cfg_entry_point": f"{AGENTS}:skrl_manager_ppo_cfg.yaml",
    },
)
