"""Type aliases for environments and configurations of Isaac Lab's manager-based and direct workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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


class WrappedEnv(Protocol):
    """Environment in any wrappers; gymnasium's wrappers do not type the inner environment better."""

    @property
    def unwrapped(self) -> Env:
        """Environment without wrappers."""
        ...  # pylint: disable=unnecessary-ellipsis
