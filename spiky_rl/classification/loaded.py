"""A checkpoint of a classification that was read: where it lies, and what run wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.config.options import RegistryError, error_path
from spiky_rl.config.spec import AgentSpec, build_agent_spec, flatten


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that a run goes on from, or that is used."""

    path: Path
    content: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the run that wrote the checkpoint."""
        return self.content["infos"]["spiky_rl"]["identity"]

    def spec(self) -> AgentSpec:
        """The run's agent; classes that it names are imported. Raises RegistryError that names the file and the key."""
        spec = self.identity["spec"]
        with error_path(f"{self.path}: infos.spiky_rl.identity.spec"):
            built = build_agent_spec(self.identity["agent"], spec, dict.fromkeys(flatten(spec), "checkpoint"))
            if built.network is None:
                raise RegistryError("missing network")
        return built
