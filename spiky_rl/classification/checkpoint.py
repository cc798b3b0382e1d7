"""Checkpoints of classifications, and checks of their content before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from spiky_rl.classification.settings import LIBRARY, ClassifyOptions, configure_dataset
from spiky_rl.classification.training import History
from spiky_rl.config import memory_check, registry
from spiky_rl.config.named_code import find_code
from spiky_rl.config.options import (
    FileRecord,
    Names,
    RegistryError,
    UserError,
    error_path,
)
from spiky_rl.config.schema import RunnerSettings
from spiky_rl.config.spec import AgentSpec, build_agent_spec, flatten
from spiky_rl.datasets._events import LATEST, MAX_PIXELS
from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint
from spiky_rl.learners.common.progress import Count

IDENTITY = "infos.spiky_rl.identity"
REQUIRED_FLAGS = ("epochs", "data", "batch_size", "shift", "rotation")
"""Flags that have a value in every run."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class DatasetSettings(FileRecord):
    """Settings of a run's dataset that every dataset has."""

    name: str
    bins: Annotated[int, Field(ge=1, le=100_000)]
    binary: bool


class ClassifierRunSettings(FileRecord):
    """Flags and dataset of a run."""

    flags: ClassifyOptions
    dataset: DatasetSettings


class ClassifierIdentity(FileRecord):
    """Identity of a classification: its data and settings."""

    dataset: str
    agent: str
    seed: Count
    data: Digest
    split: Digest
    spec: dict[str, Any]
    settings: ClassifierRunSettings
    shape: list[Annotated[int, Field(ge=1, le=MAX_PIXELS)]] = Field(min_length=3, max_length=3)
    classes: Names = Field(strict=False, min_length=2)
    window: list[Annotated[int, Field(ge=0, le=LATEST + 1)]] = Field(min_length=2, max_length=2)
    scale: Annotated[float, Field(gt=0.0)]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda:[0-9]{1,3})$")]
    overridden: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        flags, name = self.settings.flags, self.settings.dataset.name
        if name != self.dataset:
            raise RegistryError(f"settings.dataset.name: {name!r} is not the run's dataset {self.dataset!r}")
        if missing := [key for key in REQUIRED_FLAGS if getattr(flags, key) is None]:
            raise RegistryError(f"settings.flags: missing {missing[0]}")
        if self.window[0] >= self.window[1]:
            raise RegistryError(f"window: {list(self.window)} ends before it begins")
        return self


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that was read."""

    path: Path
    content: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the run that wrote the checkpoint."""
        return self.content["infos"]["spiky_rl"]["identity"]

    def build_spec(self) -> AgentSpec:
        """Return the run's agent; imports the classes that it names. Raises RegistryError that names the file and the key."""
        spec = self.identity["spec"]
        with error_path(f"{self.path}: infos.spiky_rl.identity.spec"):
            agent_spec = build_agent_spec(
                self.identity["agent"], spec, dict.fromkeys(flatten(spec), "checkpoint")
            )
            if agent_spec.network is None:
                raise RegistryError("missing network")
        return agent_spec


def read(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint and check its history and its identity.

    Nothing that the file names is executed. Raises CheckpointError that names the file and the key.
    """
    loaded = LoadedCheckpoint(path, read_checkpoint(str(path), "cpu", LIBRARY))
    if "settings" not in loaded.identity:
        raise CheckpointError(
            f"{path}: has no settings; it was written by an earlier version, so train again"
        )
    try:
        if not History.check("history", loaded.content["history"]).loss:
            raise RegistryError("history.loss: [] has 0 values; it must have at least 1")
        ClassifierIdentity.check(IDENTITY, loaded.identity)
        RunnerSettings.check(f"{IDENTITY}.spec", loaded.identity["spec"])
        identity: Any = loaded.identity
        dataset = identity["settings"]["dataset"]
        identity["dataset"] = dataset["name"] = registry.get_current_name("datasets", dataset["name"])
        if dataset["name"] in registry.list_names("datasets"):
            _require_options(dataset)
        if not find_code(loaded.identity["spec"]):
            loaded.build_spec()
    except RegistryError as error:
        # an error of `build_spec` names the file already
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return loaded


def _require_options(dataset: Mapping[str, Any]) -> None:
    """Raise RegistryError if a run's ``dataset`` has invalid options."""
    try:
        configure_dataset(dataset["name"], dataset)
    except RegistryError as error:
        raise RegistryError(f"{IDENTITY}.settings.{error}") from None


def require_memory(loaded: LoadedCheckpoint, spec: AgentSpec, available: int) -> None:
    """Raise CheckpointError if the network of a run's checkpoint, with the agent ``spec``, needs more than ``available`` bytes."""
    assert spec.network is not None
    layers, inputs = getattr(spec.network.options, "layers", ()), loaded.identity["shape"]
    weights = math.prod(inputs) * (layers[0] if layers and memory_check.is_dense(spec.network) else 1)
    first_layer = {f"{IDENTITY}.shape {inputs} with {weights:,} weights": memory_check.NUMBER * weights}
    try:
        memory_check.require_memory(
            {**first_layer, **memory_check.compute_model_bytes(spec, "one recording", 1)}, available
        )
    except UserError as error:
        raise CheckpointError(f"{loaded.path}: {error}") from None
