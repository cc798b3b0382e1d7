"""Everything about a run that is known, and checked, before a simulator starts: what commands run and studies plan with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spiky_rl.config.spec import AgentSpec, TaskSpec


@dataclass
class Plan:
    """A run of one process: task, agent, host, device and sizes."""

    task: str
    """Gym id, or the name of the task file that makes another task of it."""
    gym_id: str
    agent: str
    task_spec: TaskSpec | None
    spec: AgentSpec
    library: str
    """The host."""
    config: dict[str, Any]
    """The host's configuration."""
    experiment: str
    """Folder of the task's runs below logs/<library>."""
    env_cfg: Any
    device: str
    num_envs: int
    seed: int
    assets: str
    """Where the robots come from, in words."""
    physics: str
    """What steps the worlds; `spiky_rl.cli.common.settle` says what really does."""
    rank: int = 0
    """Number of this process among those of a distributed run; 0 keeps the run folder."""

    def setting(self, key: str) -> Any:
        """See `AgentSpec.setting`."""
        return self.spec.setting(key)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {
            "task": self.task,
            "agent": self.agent,
            "seed": self.seed,
            "assets": self.assets,
            "physics": self.physics,
            "spec": self.spec.tree(),
        }
