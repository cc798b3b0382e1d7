"""Run folders: where they lie, what they say of themselves, and which checkpoint a name stands for.

The layout is Isaac Lab's, ``logs/<library>/<experiment>/<date>[_run]``, with its ``run.json``, so that for rsl_rl either
command line finds the other's runs. Beside the numbered checkpoints lies ``best.pt``: that of the highest mean return.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from spiky_rl import __version__, files
from spiky_rl.hosts.common.checkpoints import CheckpointError
from spiky_rl.hosts.common.runner import Progress

BEST = "best.pt"
FINAL = 10
"""Iterations over which ``mean_return_final`` is the mean."""


def new_run(
    root: Path, experiment: str, run_name: str, task: str, agent: str, library: str = "rsl_rl"
) -> Path:
    """Make a run folder with its manifest."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = root / library / experiment
    name = f"{stamp}_{run_name}" if run_name else stamp
    taken = 1
    while True:
        folder = parent / (name if taken == 1 else f"{name}_{taken}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            taken += 1
    now = datetime.datetime.now(datetime.UTC).isoformat()
    manifest = {
        "version": 1,
        "library": library,
        "task": task,
        "created_at": now,
        "metadata": {"agent": agent},
    }
    files.write_json(folder / "run.json", manifest)
    return folder


def find_checkpoint(
    name: str, root: Path, experiment: str, task: str, agent: str, library: str = "rsl_rl"
) -> Path:
    """The file that ``latest``, ``best``, a run folder or a path stands for. Raises CheckpointError."""
    if name not in ("latest", "best"):
        path = Path(name)
        found = _numbered(path)[-1:] if os.path.isdir(path) else [path] if os.path.isfile(path) else []
        if not found:
            raise CheckpointError(
                f"--checkpoint {name!r}: there is no such file, and no run folder with checkpoints of that name"
            )
        return found[0]
    parent = root / library / experiment
    for folder in sorted(parent.glob("*/run.json"), key=_created, reverse=True):
        manifest = _manifest(folder)
        if manifest.get("task") == task and manifest.get("metadata", {}).get("agent") == agent:
            run = folder.parent
            if name == "best" and (run / BEST).is_file():
                return run / BEST
            if numbered := _numbered(run):
                return numbered[-1]
    raise CheckpointError(
        f"--checkpoint {name}: no run of {agent} on {task} with a checkpoint lies in {str(parent)!r}; train one first"
    )


def write_result(path: Path, progress: Progress, **more: Any) -> dict[str, Any]:
    """Write ``result.json``; returns its content. Returns that no episode reached are null."""
    known = [value for value in progress.returns if not math.isnan(value)]
    lengths = [value for value in progress.lengths if not math.isnan(value)]
    result = {
        **more,
        "env_steps": progress.env_steps,
        "iterations": progress.iterations,
        "mean_return_final": _mean(known[-FINAL:]),
        "mean_return_best": max(known, default=None),
        "mean_length_final": _mean(lengths[-FINAL:]),
        "seconds_total": progress.seconds_total,
        "seconds_simulation": progress.seconds_simulation,
        "seconds_inference": progress.seconds_inference,
        "seconds_learning": progress.seconds_learning,
        "firing_rate": progress.firing_rate,
        "synops_per_step": progress.synops_per_step,
        "curve": curve(progress),
        "versions": versions(),
    }
    files.write_json(path, result)
    return result


def curve(progress: Progress) -> dict[str, list[Any]]:
    """The course of a run, an entry per iteration, of those that were booked so; returns before the first episode are null."""
    booked = len(progress.steps)
    returns = progress.returns[len(progress.returns) - booked :]
    return {
        "env_steps": progress.steps,
        "return": [None if math.isnan(value) else value for value in returns],
        "seconds": [round(value, 3) for value in progress.seconds],
        "operations": progress.operations,
        "firing_rate": progress.firing,
    }


def versions() -> dict[str, str]:
    """Versions of everything that shapes a result."""
    found = {"spiky_rl": __version__}
    for name in ("isaaclab", "newton", "mujoco-warp", "warp-lang", "rsl-rl-lib", "skrl", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints of a run in the order of their iterations."""
    found = [p for p in folder.glob("model_*.pt") if re.fullmatch(r"model_\d+", p.stem)]
    return sorted(found, key=lambda p: int(p.stem.partition("_")[2]))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _created(path: Path) -> str:
    return str(_manifest(path).get("created_at", ""))
