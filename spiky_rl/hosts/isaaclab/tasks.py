"""Tasks of our own that Isaac Lab's registry knows: found by its commands and by ours, configured when they are asked for."""

from __future__ import annotations

GO1 = "isaaclab_tasks.contrib.velocity.config.go1.agents"
"""Isaac Lab's PPO for its flat velocity task of the same robot."""


def register_tasks() -> None:
    """Register them with gymnasium, once."""
    import gymnasium

    task = "Spiky-Velocity-Flat-Go1"
    if task not in gymnasium.registry:
        gymnasium.register(
            id=task,
            entry_point="isaaclab.envs:ManagerBasedRLEnv",
            disable_env_checker=True,
            kwargs={
                "env_cfg_entry_point": "spiky_rl.hosts.isaaclab.go1_flat:Go1FlatEnvCfg",
                "rsl_rl_cfg_entry_point": f"{GO1}.rsl_rl_ppo_cfg:UnitreeGo1FlatPPORunnerCfg",
                "skrl_cfg_entry_point": f"{GO1}:skrl_flat_ppo_cfg.yaml",
            },
        )
