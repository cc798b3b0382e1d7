"""Action term of Isaac Lab with motors that can weaken during a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

import torch
from isaaclab.envs.mdp.actions.joint_actions import JointEffortAction

if TYPE_CHECKING:
    from isaaclab.envs import ManagerBasedEnv
    from isaaclab.envs.mdp import JointEffortActionCfg


class WeakeningEffort(JointEffortAction):
    """Isaac Lab's joint efforts, scaled by the motor strength of each environment."""

    def __init__(self, cfg: JointEffortActionCfg, env: ManagerBasedEnv) -> None:
        super().__init__(cfg, env)
        self.strength = torch.ones(self.num_envs, 1, device=self.device)
        """Factor of the effort, [B, 1]; initially 1."""

    @override
    def apply_actions(self) -> None:
        """Send the efforts to the joints."""
        joints: Any = self._joint_ids
        self._asset.set_joint_effort_target_index(
            target=self.processed_actions * self.strength, joint_ids=joints
        )
