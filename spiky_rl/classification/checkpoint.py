"""Checkpoints of classifications: what one holds, checked by its keys before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from spiky_rl.classification.loaded import LoadedCheckpoint
from spiky_rl.classification.settings import LIBRARY, ClassifyOptions, dataset_of
from spiky_rl.classification.training import History, Trainer
from spiky_rl.config import memory_check, registry
from spiky_rl.config.named_code import find_code
from spiky_rl.config.options import FileRecord, Names, RegistryError, UserError, shorten, suggest_name
from spiky_rl.config.schema import RunnerSettings
from spiky_rl.config.spec import AgentSpec
from spiky_rl.datasets._events import LATEST, MOST_PIXELS
from spiky_rl.learners.common.checkpoints import CheckpointError, Optimiser, read_checkpoint
from spiky_rl.learners.common.progress import Count
from spiky_rl.networks.base import SpikingNetwork

IDENTITY = "infos.spiky_rl.identity"
SETTLED = ("epochs", "data", "batch_size", "shift", "rotation")
"""Flags that have a value in every run, whoever gave it."""
EXTRA, EARLIER = "_extra_state", "updates"
"""Name of a network's number of updates among its weights, and that in older checkpoints."""
FIRST_MOMENT, SECOND_MOMENT, STEP = "exp_avg", "exp_avg_sq", "step"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class DatasetSettings(FileRecord):
    """A run's dataset: what all have in common."""

    name: str
    bins: Annotated[int, Field(ge=1, le=100_000)]
    binary: bool


class RunSettings(FileRecord):
    """Flags and dataset of a run."""

    flags: ClassifyOptions
    dataset: DatasetSettings


class ClassifierIdentity(FileRecord):
    """Identity of a classification: what it was trained on, and how."""

    dataset: str
    agent: str
    seed: Count
    data: Digest
    split: Digest
    spec: dict[str, Any]
    settings: RunSettings
    shape: list[Annotated[int, Field(ge=1, le=MOST_PIXELS)]] = Field(min_length=3, max_length=3)
    classes: Names = Field(strict=False, min_length=2)
    window: list[Annotated[int, Field(ge=0, le=LATEST + 1)]] = Field(min_length=2, max_length=2)
    scale: Annotated[float, Field(gt=0.0)]
    device: Annotated[str, Field(pattern=r"^(cpu|cuda:[0-9]{1,3})$")]
    overridden: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        flags, name = self.settings.flags, self.settings.dataset.name
        if name != self.dataset:
            raise RegistryError(f"settings.dataset.name: {name!r} is not the run's dataset {self.dataset!r}")
        if unsettled := [key for key in SETTLED if getattr(flags, key) is None]:
            raise RegistryError(f"settings.flags: missing {unsettled[0]}")
        if self.window[0] >= self.window[1]:
            raise RegistryError(f"window: {list(self.window)} ends before it begins")
        return self


class Content(FileRecord):
    """A checkpoint but for its random states and its identity."""

    network: dict[str, Any]
    best: dict[str, Any]
    optimizer: Optimiser
    history: History


def read(path: Path) -> LoadedCheckpoint:
    """A classification's checkpoint, whole and of the right kinds; what fits a network alone is left to `require_weights`.

    Nothing that the file at ``path`` names is executed. Raises CheckpointError that names it and the key.
    """
    loaded = LoadedCheckpoint(path, read_checkpoint(str(path), "cpu", LIBRARY))
    if "settings" not in loaded.identity:
        raise CheckpointError(
            f"{path}: says nothing of its settings; it was written by an earlier version, so train again"
        )
    try:
        held = Content.check("", {key: loaded.content[key] for key in tuple(Content.model_fields)})
        if not held.history.loss:
            raise RegistryError("history.loss: [] has 0 values; it must have at least 1")
        for key in ("network", "best"):
            _require_tensors(key, loaded.content[key])
        _require_digests(loaded.content["learned"])
        ClassifierIdentity.check(IDENTITY, loaded.identity)
        RunnerSettings.check(f"{IDENTITY}.spec", loaded.identity["spec"])
        dataset = loaded.identity["settings"]["dataset"]
        if registry.is_registered("datasets", dataset["name"]):
            _require_options(dataset)
        if not find_code(loaded.identity["spec"]):
            loaded.spec()
    except RegistryError as error:
        raise CheckpointError(
            str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}"
        ) from None
    return loaded


def _require_tensors(key: str, weights: Mapping[Any, object]) -> None:
    """Raise RegistryError where the ``weights`` below ``key`` are not tensors by name."""
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RegistryError(f"{key}.{name}: expected a tensor, got {shorten(value)}")


def _require_digests(learned: object) -> None:
    """Raise RegistryError where ``learned`` is no list of recordings' hashes."""
    if not isinstance(learned, Tensor):
        raise RegistryError(f"learned: expected a tensor, got {shorten(learned)}")
    if learned.dtype != torch.int64 or learned.ndim != 1 or not learned.numel():
        raise RegistryError(f"learned: {_describe(learned)}; it must be a list of whole numbers")


def _require_options(dataset: Mapping[str, Any]) -> None:
    """Raise RegistryError where a run's ``dataset`` has options that are none."""
    try:
        dataset_of(dataset["name"], {key: value for key, value in dataset.items() if key != "name"})
    except RegistryError as error:
        raise RegistryError(f"{IDENTITY}.settings.{error}") from None


def require_weights(network: SpikingNetwork, weights: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError where ``weights`` are not those of such a ``network``.

    Args:
        network: It takes them.
        weights: By name.
        where: File and key at which they stand.
    """
    named = {EXTRA if name == EARLIER else name: tensor for name, tensor in weights.items()}
    own = network.state_dict()
    if missing := [name for name in own if name not in named]:
        raise CheckpointError(f"{where}: missing {missing[0]}{suggest_name(missing[0], named)}")
    if unknown := [name for name in named if name not in own]:
        raise CheckpointError(f"{where}.{unknown[0]}: no such weight{suggest_name(unknown[0], own)}")
    for name, tensor in named.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise CheckpointError(
                f"{where}.{name}: {_describe(tensor)}; this network's is {_describe(own[name])}"
            )
        if name == EXTRA and tensor.min() < 0:
            raise CheckpointError(f"{where}.{name}: {tensor.min()} is out of range; it must be at least 0")


def require_optimiser(trainer: Trainer, state: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError where a ``state`` is none of the ``trainer``'s optimiser; ``where``: file and key at which it stands."""
    (own,), groups = trainer.optimiser.state_dict()["param_groups"], state["param_groups"]
    weights = list(trainer.network.parameters())
    if len(groups) != 1:
        raise CheckpointError(f"{where}.param_groups: has {len(groups)} values; it must have 1")
    if (params := groups[0]["params"]) != own["params"]:
        raise CheckpointError(f"{where}.param_groups.0.params: {shorten(params)}; it must be {own['params']}")
    for key, value in groups[0].items():
        # the schedule sets the learning rate; a setting that came later is none of this version's
        if key not in ("lr", "params") and key in own and value != own[key]:
            raise CheckpointError(
                f"{where}.param_groups.0.{key}: {shorten(value)} is none of this run's; it must be {own[key]}"
            )
    for index, moments in state["state"].items():
        place = f"{where}.state.{index}"
        if index not in range(len(weights)):
            raise CheckpointError(f"{place}: there are {len(weights)} weights, counted from 0")
        for key, shape in ((STEP, ()), *((k, weights[index].shape) for k in (FIRST_MOMENT, SECOND_MOMENT))):
            value = moments.get(key)
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                text = _describe(value) if isinstance(value, Tensor) else f"got {shorten(value)}"
                raise CheckpointError(f"{place}.{key}: {text}; expected numbers of shape {list(shape)}")


def require_memory(loaded: LoadedCheckpoint, spec: AgentSpec, have: int) -> None:
    """Raise CheckpointError where a run's network is larger than the memory that a machine has.

    Args:
        loaded: The run's checkpoint.
        spec: Its agent.
        have: Bytes.
    """
    assert spec.network is not None
    layers, connection = getattr(spec.network.options, "layers", ()), spec.network.parts.get("connection")
    dense = isinstance(connection, registry.ComponentSpec) and connection.name == "linear"
    inputs = loaded.identity["shape"]
    weights = math.prod(inputs) * (layers[0] if dense and layers else 1)
    first = {f"{IDENTITY}.shape {inputs} with {weights:,} weights": memory_check.NUMBER * weights}
    try:
        memory_check.require_memory(
            {**first, **memory_check.compute_model_bytes(spec, "one recording", 1)}, have
        )
    except UserError as error:
        raise CheckpointError(f"{loaded.path}: {error}") from None


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}".removeprefix("torch.")
