"""Checkpoints: written atomically, read without executing code, refused if damaged or of another run."""

from __future__ import annotations

import io
import logging
import os
import random
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from spiky_rl.config import files
from spiky_rl.config.errors import get_error_text
from spiky_rl.config.options import FileRecord, check_number
from spiky_rl.learners import DEFAULT_LEARNER, get_learner, list_learners
from spiky_rl.learners.common.checkpoint_names import CheckpointError, OtherLibraryError
from spiky_rl.learners.common.progress import Count, TrainingProgress

logger = logging.getLogger(__name__)

CLASSIFY = "classify"
"""Value of ``library`` for the checkpoints of classifications."""
CLASSIFY_KEYS = ("network", "best", "optimizer", "history", "random", "learned", "infos")
"""Required keys of a classification's checkpoint."""
CONTENT_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError)
"""Errors that content of a wrong kind may raise."""
DIRECTORY = 0x10
"""Attribute of a folder in a zip file, as in MS-DOS."""
NOT_NEGATIVE = {
    "_std",
    "_var",
    "var",
    "running_variance",
    "count",
    "current_count",
    "step",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "square_avg",
}
"""Last part of the names of tensors that must not be negative: standard deviations, variances and counts.

rsl_rl's ``std_param`` is not one of them: an update may make it negative, and rsl_rl clamps it on every use.
"""


class RandomState(TypedDict):
    """States of all random generators of a training, as plain data and tensors."""

    torch: Tensor
    numpy: Sequence[Any]
    """Parts of NumPy's state, with its words as a tensor."""
    python: Sequence[Any]
    """Version, words, and the cached second number of a normal pair."""
    cuda: NotRequired[Tensor]


class SpecNetworks(FileRecord):
    """Models and networks of a specification; None for a missing one."""

    actor: dict[str, Any] | None = None
    critic: dict[str, Any] | None = None
    network: dict[str, Any] | None = None
    critic_network: dict[str, Any] | None = None


class RunIdentity(FileRecord):
    """Identity of a training or a classification."""

    task: str = ""
    agent: str = ""
    dataset: str = ""
    assets: str = ""
    physics: str = ""
    data: str = ""
    split: str = ""
    seed: Count = 0
    observations: Count = 0
    """Number of the actor's observations; 0 if the checkpoint is of an earlier version."""
    actions: Count = 0
    """Number of actions; 0 if the checkpoint is of an earlier version."""
    spec: SpecNetworks = SpecNetworks()


class RunnerState(FileRecord):
    """State that our runners save in a checkpoint."""

    identity: RunIdentity
    progress: TrainingProgress | None = None
    random: dict[str, Any] = Field(default_factory=dict)
    weights_only: bool = False
    """Whether the file holds the weights alone, without optimiser, progress and random states."""


class CheckpointInfos(FileRecord):
    """Content of ``infos``; other programs may add their own keys."""

    spiky_rl: RunnerState | None = None


def write_checkpoint(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as a checkpoint, atomically. Raises OSError that names ``path``."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)  # torch.save to a file does not report why a write failed
    files.write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def read_unchecked_checkpoint(path: str, map_location: str = "cpu") -> dict[str, Any]:
    """Read the file ``path`` without executing code from it; return an empty dict if it holds no mapping.

    Raises CheckpointError if there is no such file, or it is damaged.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no checkpoint {path!r}")
    try:
        # torch writes a checksum of every part but does not check it when reading
        with zipfile.ZipFile(path) as archive:
            # for a part that is a folder, torch would read nothing and return uninitialised memory
            if any(part.external_attr & DIRECTORY for part in archive.infolist()):
                raise zipfile.BadZipFile("its parts are folders")
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
        loaded = torch.load(path, weights_only=True, map_location=map_location)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a foreign file may raise any error in the unpickler
        detail = re.sub(r"\s+", " ", str(error)).split(". ")[0][:200]
        raise CheckpointError(f"{path}: not a checkpoint, or damaged ({detail})") from None
    return loaded if isinstance(loaded, dict) else {}


def read_checkpoint(path: str, map_location: str = "cpu", library: str = DEFAULT_LEARNER) -> dict[str, Any]:
    """Return the checked content of a checkpoint: complete, finite and of the right types.

    ``library`` names the learner that wrote the file, or is `CLASSIFY`. Raises CheckpointError if there is no such file, or it is damaged
    or of another library.
    """
    content = read_unchecked_checkpoint(path, map_location)
    if missing := _list_missing_keys(content, library):
        message = f"{path}: not a checkpoint of {library}: {', '.join(missing)} missing"
        if owner := find_library(content):
            raise OtherLibraryError(f"{message}; it is {owner}'s: pass --rl_library {owner}")
        raise CheckpointError(message)
    try:
        for key, value in content.items():
            for name, tensor in iterate_tensors(value, str(key)):
                check_tensor(name, tensor)
        check_metadata(content, library)
    except CONTENT_ERRORS as error:
        raise CheckpointError(f"{path}: damaged: {get_error_text(error)}") from None
    return content


def find_library(content: Mapping[str, object]) -> str | None:
    """Return the name of the learner whose checkpoints have the keys of ``content``; None if there is none."""
    for name in list_learners():
        for keys in get_learner(name).checkpoint_keys.values():
            if content.keys() >= set(keys):
                return name
    return None


def iterate_tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in the nested containers of ``value`` with their dotted names, which start with ``name``."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from iterate_tensors(item, f"{name}.{key}")


def _list_missing_keys(content: Mapping[str, object], library: str) -> list[str]:
    """Return the keys that ``content`` lacks as a checkpoint of ``library``, for the algorithm of which the fewest are missing."""
    key_sets = [CLASSIFY_KEYS] if library == CLASSIFY else get_learner(library).checkpoint_keys.values()
    missing_by_algorithm = [[key for key in keys if key not in content] for keys in key_sets]
    return min(missing_by_algorithm, key=len)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raise ValueError if the ``tensor`` called ``name`` cannot be from one of our runs.

    Such a tensor has its own memory and finite values, and is not negative if its name is in `NOT_NEGATIVE`.
    """
    repeated = any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
    if repeated or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name}: its {tensor.numel():,} values share memory; each must have its own")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{name} has non-finite values; use an older checkpoint")
    if name.rpartition(".")[2] in NOT_NEGATIVE and (tensor < 0).any():
        lowest = tensor.min().item()
        raise ValueError(f"{name}: {lowest:g} is out of range; it must be at least 0")


def check_metadata(content: Mapping[str, object], library: str) -> None:
    """Check the iteration and our runners' data in the ``content`` of a checkpoint of ``library``, as in `read_checkpoint`.

    Raises ValueError that names the damaged key; other damage may raise any of `CONTENT_ERRORS`.
    """
    infos = content.get("infos")
    runner_state = None if infos is None else CheckpointInfos.check("infos", infos).spiky_rl
    if library == CLASSIFY:
        if runner_state is None:
            raise ValueError("infos: missing spiky_rl")
        check_random_state(content["random"])
        return
    iteration = check_number("iter", content["iter"], int, low=0)
    if runner_state is None or runner_state.weights_only:  # otherwise the library's own command wrote it
        return
    check_random_state(runner_state.random)
    if runner_state.progress is None:
        raise ValueError("infos.spiky_rl: missing progress")
    iterations = runner_state.progress.iterations
    if iteration != max(iterations - 1, 0):
        raise ValueError(f"iter is {iteration}, but progress.iterations is {iterations}")


def get_runner_state(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return our runners' data in a ``loaded`` checkpoint; empty if another program wrote it."""
    return (loaded.get("infos") or {}).get("spiky_rl") or {}


def select_parts(loaded: Mapping[str, Any], parts: Mapping[str, bool] | None) -> dict[str, bool] | None:
    """Return the ``parts`` of a ``loaded`` checkpoint to load, None for all; of a checkpoint with weights alone the models among them."""
    if get_runner_state(loaded).get("weights_only"):
        return {model: True for model in ("actor", "critic") if parts is None or parts.get(model)}
    return None if parts is None else dict(parts)


def get_identity(loaded: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the identity (run, task and agent) in a ``loaded`` checkpoint; empty if another program wrote it."""
    return get_runner_state(loaded).get("identity") or {}


def get_actor_sizes(loaded: Mapping[str, object]) -> tuple[int, int] | None:
    """Return the numbers of observations and actions of the actor in a ``loaded`` checkpoint; None if an earlier version wrote it."""
    identity = get_identity(loaded)
    if identity.get("observations") and identity.get("actions"):
        return identity["observations"], identity["actions"]
    return None


def check_identity(loaded: Mapping[str, object], identity: Mapping[str, object], path: str) -> None:
    """Raise CheckpointError if a checkpoint ``loaded`` from ``path`` belongs to another task or agent than this run's ``identity``."""
    saved = get_identity(loaded)
    for key in ("task", "agent"):
        if key in saved and key in identity and saved[key] != identity[key]:
            raise CheckpointError(
                f"{path}: checkpoint of {key} {saved[key]!r}, not {identity[key]!r}; pass --{key} {saved[key]}"
            )


def warn_if_assets_differ(loaded: Mapping[str, object], assets: str, path: str) -> None:
    """Log a warning if a checkpoint ``loaded`` from ``path`` was trained with other robots than ``assets``, because scores then differ."""
    saved = get_identity(loaded).get("assets")
    if saved not in (None, assets):
        logger.warning("%s: trained with other robots: %s, not %s", path, saved, assets)


def get_random_state(device: str) -> RandomState:
    """Return the states of all random generators of a training on ``device``."""
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    state: RandomState = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def check_random_state(state: Any) -> None:
    """Raise ValueError if ``state`` is not one of `get_random_state`; it is tried on new generators."""
    try:
        torch.Generator().set_state(state["torch"].cpu())
        # pylint: disable-next=no-member  # a compiled class
        np.random.RandomState().set_state(_to_numpy_state(state["numpy"]))
        random.Random().setstate(_to_python_state(state["python"]))
    except CONTENT_ERRORS as error:
        raise ValueError(f"random: not a valid state of the generators ({error})") from None


def restore_random_state(state: RandomState, device: str) -> None:
    """Restore the random generators, including that of ``device``, to a ``state`` from `get_random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state(_to_numpy_state(state["numpy"]))
    random.setstate(_to_python_state(state["python"]))
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _to_numpy_state(state: Iterable[Any]) -> tuple:
    """Return NumPy's state. Raises ValueError for a position outside of the words, with which NumPy would read other memory."""
    kind, keys, position, *rest = state
    if not 0 <= position <= len(keys):
        raise ValueError(f"position {position!r}")
    return kind, keys.cpu().numpy().astype(np.uint32), position, *rest


def _to_python_state(state: Iterable[Any]) -> tuple:
    """Return Python's state, whose words are a tuple."""
    version, words, gauss = state
    return version, tuple(words), gauss
