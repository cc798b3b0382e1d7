"""Isaac Lab's environments and their configurations by one name each: tasks are of its manager-based or its direct workflow."""

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
"""A simulation without wrappers."""
type EnvCfg = "ManagerBasedRLEnvCfg | DirectRLEnvCfg | DirectMARLEnvCfg"
"""The configuration of a task's simulation."""


class WrappedEnv(Protocol):
    """A simulation in whatever wrappers it has; gymnasium's give no better type to what is inside."""

    @property
    def unwrapped(self) -> Env:
        """Without them."""
        ...  # pylint: disable=unnecessary-ellipsis
