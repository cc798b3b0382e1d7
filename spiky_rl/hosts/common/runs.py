"""Run folders: where they lie, what they say of themselves, and which checkpoint a name stands for.

The layout is Isaac Lab's, ``logs/<library>/<experiment>/<date>[_run]``, with its ``run.json``, so that for rsl_rl either
command line finds the other's runs. Beside the numbered checkpoints lies ``best.pt``: that of the highest mean return.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from spiky_rl import __version__
from spiky_rl.config import files
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.common.checkpoints import identity_of, read_checkpoint
from spiky_rl.hosts.common.progress import Progress
from spiky_rl.hosts.common.run_folders import CheckpointError, numbered, require_checkpoint

log = logging.getLogger(__name__)

BEST = "best.pt"
FINAL = 10
"""Iterations over which ``mean_return_final`` is the mean."""


def new_run(
    root: Path,
    experiment: str,
    run_name: str,
    task: str,
    agent: str,
    library: str = "rsl_rl",
    seed: int | None = None,
) -> Path:
    """Make a run folder with its manifest.

    Args:
        root: Folder of all runs.
        experiment: Folder of the task's runs below ``root/library``.
        run_name: What its name ends with, after the date; may be empty.
        task: Task of the run.
        agent: Agent of the run.
        library: What trains.
        seed: Seed of the run.

    Raises:
        UserError: A name is no plain folder name.
    """
    files.require_plain_name("--experiment_name", experiment)
    if run_name:
        files.require_plain_name("--run_name", run_name)
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
        "seed": seed,
    }
    files.write_json(folder / "run.json", manifest)
    return folder


def write_spec(folder: Path, spec: AgentSpec) -> None:
    """Write what a run is made from, with the origin of every value, into its folder.

    Args:
        folder: The run's.
        spec: The merged specification.
    """
    rows = {path: {"value": value, "origin": origin} for path, value, origin in spec.rows()}
    files.write_text(folder / "params" / "spec.yaml", yaml.safe_dump(rows, sort_keys=False))


def find_checkpoint(
    name: str,
    root: Path,
    experiment: str,
    task: str,
    agent: str | None,
    library: str = "rsl_rl",
    seed: int | None = None,
    only: bool = True,
) -> Path:
    """The file that ``latest``, ``best``, a run folder or a path stands for.

    Of a run's checkpoints it is the newest that is whole; each damaged one is named in a warning. Raises CheckpointError.

    Args:
        name: ``latest``, ``best``, a run folder or a file.
        root: Folder of all runs.
        experiment: Folder of the task's runs below ``root/library``.
        task: Task of the run.
        agent: Agent of the run; None: any.
        library: Whose run it is.
        seed: Seed of the run that ``latest`` and ``best`` are looked for in; None: any.
        only: Whether a run of another seed is refused, or taken where there is none of ``seed``.
    """
    if name not in ("latest", "best"):
        path = Path(name)
        if path.is_file():
            return path
        require_checkpoint(name)
        held = numbered(path)
        if (path := _newest_whole(held, library)) is None:
            _none_whole(name, len(held))
        return path
    parent = root / library / experiment
    damaged, seeds = 0, set()
    for manifest_file in sorted(parent.glob("*/run.json"), key=_created, reverse=True):
        run = manifest_file.parent
        manifest = _manifest(manifest_file) or _restored(run, library)
        if manifest.get("task") != task or agent not in (None, _agent(manifest)):
            continue
        theirs = manifest.get("seed")
        if seed is not None and theirs not in (None, seed):
            seeds.add(theirs)
            continue
        held = numbered(run) + ([run / BEST] if name == "best" and (run / BEST).is_file() else [])
        path = _newest_whole(held, library)
        if path is None:
            damaged += len(held)
            continue
        if theirs is None:  # a run of before manifests had it
            theirs = identity_of(read_checkpoint(str(path), library=library)).get("seed")
        if seed in (None, theirs):
            return path
        seeds.add(theirs)
    if seeds and not only:
        log.info("--seed %s: no run was trained with it; taking the newest run", seed)
        return find_checkpoint(name, root, experiment, task, agent, library)
    if seeds:
        raise CheckpointError(
            f"--checkpoint {name}: no run of {agent or 'any agent'} on {task} with --seed {seed} lies in {str(parent)!r}, only with"
            f" {', '.join(sorted(map(str, seeds)))}; leave --seed out, or name the checkpoint's file"
        )
    if damaged:
        _none_whole(name, damaged)
    raise CheckpointError(
        f"--checkpoint {name}: no run of {agent or 'any agent'} on {task} with a checkpoint lies in {str(parent)!r}; train one first"
    )


def _newest_whole(held: list[Path], library: str) -> Path | None:
    """The last of a run's checkpoints that can be read; what killed writers left beside them is removed."""
    if held:
        files.remove_leftovers(held[0].parent)
    for path in reversed(held):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except CheckpointError as error:
            log.warning("%s; looking for an older one", error)
    return None


def _none_whole(name: str, count: int) -> NoReturn:
    """Raise CheckpointError: all are damaged."""
    raise CheckpointError(f"--checkpoint {name}: all {count} checkpoints are damaged; train again without it")


def write_result(path: Path, progress: Progress, **more: object) -> dict[str, Any]:
    """Write ``result.json`` and return its content, in which returns that no episode reached are null.

    Args:
        path: The file.
        progress: What the run has done.
        more: What else the file says of it, first.
    """
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
    """The course of a run, from its ``progress``: an entry per booked iteration; returns before the first episode are null."""
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


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _restored(run: Path, library: str) -> dict[str, Any]:
    """What a damaged manifest said, by the newest of the run's checkpoints that is whole."""
    log.warning("%s: is damaged; what the run is of is read from its checkpoints", run / "run.json")
    path = _newest_whole(numbered(run), library)
    theirs = {} if path is None else identity_of(read_checkpoint(str(path), library=library))
    return {
        "task": theirs.get("task"),
        "metadata": {"agent": theirs.get("agent")},
        "seed": theirs.get("seed"),
    }


def _agent(manifest: Mapping[str, object]) -> str | None:
    metadata = manifest.get("metadata")
    return metadata.get("agent") if isinstance(metadata, dict) else None


def _created(path: Path) -> str:
    """When a run was made, in the manifest's words; of a damaged one, when that was written."""
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat()
    return str(_manifest(path).get("created_at", written))
