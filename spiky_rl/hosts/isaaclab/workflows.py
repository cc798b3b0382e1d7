"""Type aliases for environments and configurations of Isaac Lab's manager-based and direct workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isaaclab.envs import (
        DirectMARLEnvCfg,
        DirectRLEnv,
        DirectRLEnvCfg,
        ManagerBasedRLEnv,
        ManagerBasedRLEnvCfg,
    )
    from isaaclab_experimental.envs import ManagerBasedRLEnvWarp

type Env = "ManagerBasedRLEnv | DirectRLEnv | ManagerBasedRLEnvWarp"
"""Environment without wrappers."""
type EnvCfg = "ManagerBasedRLEnvCfg | DirectRLEnvCfg | DirectMARLEnvCfg"
"""Configuration of an environment."""
