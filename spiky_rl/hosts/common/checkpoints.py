"""Checkpoints: read without executing code, refused where they belong to another run, random states included."""

from __future__ import annotations

import logging
import os
import random
import re
from typing import Any

import numpy as np
import torch

from spiky_rl.registry import UserError

logger = logging.getLogger(__name__)

KEYS = {
    "rsl_rl": ("actor_state_dict", "critic_state_dict", "iter"),
    "skrl": ("policy", "value", "iter"),
}
"""What a library's checkpoints hold at least: its own names for the models, and the iteration."""


class CheckpointError(UserError):
    """A file that is no checkpoint, or one of another run."""


def read_mapping(path: str, map_location: str = "cpu") -> dict[str, Any]:
    """What a file holds, read without executing code from it; nothing where that is no mapping. Raises CheckpointError."""
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no checkpoint {path!r}")
    try:
        loaded = torch.load(path, weights_only=True, map_location=map_location)
    except (
        Exception
    ) as error:  # pylint: disable=broad-exception-caught  # a foreign file trips the unpickler anywhere
        detail = re.sub(r"\s+", " ", str(error)).split(". ")[0][:200]
        raise CheckpointError(f"{path}: no checkpoint, or a damaged one ({detail})") from None
    return loaded if isinstance(loaded, dict) else {}


def read_checkpoint(path: str, map_location: str = "cpu", library: str = "rsl_rl") -> dict[str, Any]:
    """The content of a library's checkpoint. Raises CheckpointError."""
    held = read_mapping(path, map_location)
    missing = [key for key in KEYS[library] if key not in held]
    if missing:
        other = next((name for name, keys in KEYS.items() if all(key in held for key in keys)), None)
        hint = f"; it is {other}'s: pass --rl_library {other}" if other else ""
        raise CheckpointError(f"{path}: no {library} checkpoint: {', '.join(missing)} missing{hint}")
    return held


def check_identity(loaded: dict[str, Any], identity: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint that says it belongs to another task or agent."""
    theirs = ((loaded.get("infos") or {}).get("spiky_rl") or {}).get("identity", {})
    for key in ("task", "agent"):
        if key in theirs and key in identity and theirs[key] != identity[key]:
            raise CheckpointError(
                f"{path}: a checkpoint of {key} {theirs[key]!r}, not {identity[key]!r}; pass --{key} {theirs[key]}"
            )


def warn_of_other_robots(loaded: dict[str, Any], assets: str, path: str) -> None:
    """Say in one line where a checkpoint was trained on other robots than ``assets``, for scores do not carry over."""
    identity = ((loaded.get("infos") or {}).get("spiky_rl") or {}).get("identity") or {}
    if (theirs := identity.get("assets")) not in (None, assets):
        logger.warning("%s: was trained on other robots: %s, not %s", path, theirs, assets)


def random_state(device: str) -> dict[str, Any]:
    """The states of every generator that training draws from, as plain data and tensors."""
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: str) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
