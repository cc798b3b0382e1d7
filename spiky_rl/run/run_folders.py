"""Run folders: their layout, their manifests, and the search for checkpoints by name.

The layout and ``run.json`` are Isaac Lab's, ``logs/<library>/<experiment>/<date>[_run]``, so that with rsl_rl the commands of Isaac
Lab and of this package find each other's runs. ``best.pt`` is the best checkpoint of a run.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from spiky_rl.config import files
from spiky_rl.config.options import FileRecord, RegistryError, shorten
from spiky_rl.config.safe_loading import ReadingError, read_json_record
from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners import DEFAULT_LEARNER
from spiky_rl.learners.common.checkpoint_names import (
    CheckpointError,
    OtherLibraryError,
    list_checkpoints,
    require_checkpoint,
)
from spiky_rl.learners.common.checkpoints import get_identity, read_checkpoint
from spiky_rl.learners.common.progress import Count, TrainingProgress
from spiky_rl.run.provenance import get_versions

log = logging.getLogger(__name__)

BEST, MANIFEST = "best.pt", "run.json"
STAMP = "%Y-%m-%d_%H-%M-%S"
"""Time format at the start of a run folder's name."""
FINAL_ITERATIONS = 10
"""Number of last iterations whose mean is ``mean_return_final``."""
ALL_DAMAGED = "all {} checkpoints are damaged; train again without --checkpoint"
LAST_EVALUATIONS = 10
"""Number of last evaluations whose mean is ``last_ten_evaluations``."""


def parse_time(text: str) -> datetime.datetime:
    """Parse an ISO 8601 time after 1970 and before the last year; it gets a timezone. Raises RegistryError for anything else."""
    with contextlib.suppress(TypeError, ValueError):
        time = datetime.datetime.fromisoformat(text)
        if 1970 < time.year < datetime.MAXYEAR:
            return _add_timezone(time)
    raise RegistryError(f"{shorten(text)} is not a valid time of a run; allowed: an ISO 8601 time after 1970")


class ManifestMetadata(FileRecord):
    """Metadata of a manifest."""

    agent: str | None = None


class Manifest(FileRecord):
    """Content of a run's ``run.json``, written by Isaac Lab's command or by ours."""

    task: str
    created_at: Annotated[datetime.datetime, BeforeValidator(parse_time)] | None = None
    metadata: ManifestMetadata = ManifestMetadata()
    seed: Count | None = None


def create_run_folder(
    root: Path,
    experiment: str,
    run_name: str,
    task: str,
    agent: str,
    library: str = DEFAULT_LEARNER,
    seed: int | None = None,
) -> Path:
    """Create a run folder below ``root/library/experiment``, with a manifest whose creation time is later than that of all runs there.

    The folder's name is the date, and the suffix ``run_name`` if it is not empty. Raises UserError if a name is not a plain folder name.
    """
    files.require_plain_name("--experiment_name", experiment)
    if run_name:
        files.require_plain_name("--run_name", run_name)
    stamp = datetime.datetime.now().strftime(STAMP)
    parent = root / library / experiment
    now = datetime.datetime.now(datetime.UTC)
    # the newest run is found by this time, so it must be the latest even if the clock has been set back
    earlier = [time for time, _ in _list_runs(parent)]
    created = max([now, *(time + datetime.timedelta(microseconds=1) for time in earlier)])
    name = f"{stamp}_{run_name}" if run_name else stamp
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    manifest = {
        "version": 1,
        "library": library,
        "task": task,
        "created_at": created.isoformat(),
        "metadata": {"agent": agent},
        "seed": seed,
    }
    files.write_json(folder / MANIFEST, manifest)
    return folder


def write_spec(folder: Path, spec: AgentSpec) -> None:
    """Write the merged specification ``spec``, with the origin of every value, into a run ``folder``."""
    rows = {path: {"value": value, "origin": origin} for path, value, origin in spec.list_values()}
    files.write_text(folder / "params" / "spec.yaml", yaml.safe_dump(rows, sort_keys=False))


def find_checkpoint(
    name: str,
    root: Path,
    experiment: str,
    task: str,
    agent: str | None,
    library: str = DEFAULT_LEARNER,
    seed: int | None = None,
    requires_seed: bool = True,
) -> Path:
    """Return the checkpoint that a name refers to: ``latest``, ``best``, a run folder or a file. Raises CheckpointError.

    ``latest`` and ``best`` mean the last and the best checkpoint of the newest matching run, by the times in the manifests. Damaged
    checkpoints are skipped with a warning. A matching run, below ``root/library/experiment``, has the task, the agent unless it is None,
    and the seed unless it is None. If no run has the seed, and it is not required, the newest run of any seed is used.
    """
    if name not in ("latest", "best"):
        return find_named_checkpoint(name, library)
    parent = root / library / experiment
    damaged, other_seeds = 0, set()
    for run, manifest in _iterate_runs(parent, library, task, agent):
        if seed is not None and manifest.seed not in (None, seed):
            other_seeds.add(manifest.seed)
            continue
        checkpoints = _list_candidates(run, name)
        path = _find_latest_valid(checkpoints, library)
        if path is None:
            damaged += len(checkpoints)
            continue
        run_seed = _get_seed(manifest, path, library)
        if seed in (None, run_seed):
            return path
        other_seeds.add(run_seed)
    if other_seeds and not requires_seed:
        log.info("--seed %s: no run was trained with it; taking the newest run", seed)
        return find_checkpoint(name, root, experiment, task, agent, library)
    reason = _describe_missing(agent, task, parent, damaged, seed, other_seeds)
    raise CheckpointError(f"--checkpoint {name}: {reason}")


def find_named_checkpoint(name: str, library: str) -> Path:
    """Return the file ``name``, or the last readable checkpoint of the run folder ``name``. Raises CheckpointError."""
    path = Path(name)
    if path.is_file():
        return path
    require_checkpoint(name)
    checkpoints = list_checkpoints(path)
    checkpoint = _find_latest_valid(checkpoints, library)
    if checkpoint is None:
        raise CheckpointError(f"--checkpoint {name}: {ALL_DAMAGED.format(len(checkpoints))}")
    return checkpoint


def _describe_missing(
    agent: str | None, task: str, parent: Path, damaged: int, seed: int | None, other_seeds: set[int | None]
) -> str:
    """Return why none of the runs below ``parent`` has a checkpoint of an agent on a task, and a remedy."""
    missing = f"no run of {agent or 'any agent'} on {task} with"
    if other_seeds:
        seeds = ", ".join(sorted(map(str, other_seeds)))
        return f"{missing} --seed {seed} in {str(parent)!r}; seeds of its runs: {seeds}; remove --seed, or pass the checkpoint's file"
    if damaged:
        return ALL_DAMAGED.format(damaged)
    return f"{missing} a checkpoint in {str(parent)!r}; train one first"


def _get_seed(manifest: Manifest, checkpoint: Path, library: str) -> int | None:
    """Return the seed of a run from its manifest, or from its ``checkpoint`` if an older manifest has none; None if neither has it."""
    if manifest.seed is not None:
        return manifest.seed
    return get_identity(read_checkpoint(str(checkpoint), library=library)).get("seed")


def _list_candidates(run: Path, name: str) -> list[Path]:
    """Return the checkpoints of a ``run`` for the ``name`` latest or best, the preferred one last."""
    checkpoints = list_checkpoints(run)
    if name == "best" and (run / BEST).is_file():
        checkpoints.append(run / BEST)
    return checkpoints


def _iterate_runs(
    parent: Path, library: str, task: str, agent: str | None
) -> Iterator[tuple[Path, Manifest]]:
    """Yield the runs below ``parent`` of a ``task`` and an ``agent`` (None for any), newest first, with their manifests."""
    for _, run in _list_runs(parent):
        manifest = _read_manifest(run) or _rebuild_manifest(run, library)
        if manifest.task == task and agent in (None, manifest.metadata.agent):
            yield run, manifest


def _find_latest_valid(checkpoints: list[Path], library: str) -> Path | None:
    """Return the last readable checkpoint, or None; remove temporary files of killed writers beside the checkpoints.

    Raises OtherLibraryError for a run of another learner.
    """
    if checkpoints:
        files.remove_leftovers(checkpoints[0].parent)
    for path in reversed(checkpoints):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except OtherLibraryError:
            raise
        except CheckpointError as error:
            log.warning("%s; trying an older checkpoint", error)
    return None


def write_result(path: Path, progress: TrainingProgress, **first_entries: object) -> dict[str, Any]:
    """Write ``result.json``, with ``first_entries`` first, and return its content; returns are null if no episode has ended."""
    returns = [value for value in progress.returns if not math.isnan(value)]
    lengths = [value for value in progress.lengths if not math.isnan(value)]
    result = {
        **first_entries,
        "env_steps": progress.env_steps,
        "iterations": progress.iterations,
        "mean_return_final": _compute_mean(returns[-FINAL_ITERATIONS:]),
        "mean_return_best": max(returns, default=None),
        "mean_length_final": _compute_mean(lengths[-FINAL_ITERATIONS:]),
        "seconds_total": progress.seconds_total,
        "seconds_simulation": progress.seconds_simulation,
        "seconds_inference": progress.seconds_inference,
        "seconds_learning": progress.seconds_learning,
        "firing_rate": progress.firing_rate,
        "synops_per_step": progress.synops_per_step,
        "worlds_reset": progress.worlds_reset,
        "curve": build_curve(progress),
        **summarize_evaluations(progress),
        "versions": get_versions(),
    }
    files.write_json(path, result)
    return result


def build_curve(progress: TrainingProgress) -> dict[str, list[Any]]:
    """Return the learning curve of a run, with one entry per recorded iteration; returns before the first episode are null."""
    # runs of earlier versions may have recorded returns alone for their first iterations
    recorded = len(progress.steps)
    returns = progress.returns[len(progress.returns) - recorded :]
    return {
        "env_steps": progress.steps,
        "return": [None if math.isnan(value) else value for value in returns],
        "seconds": [round(value, 3) for value in progress.seconds],
        "operations": progress.operations,
        "firing_rate": progress.firing,
    }


def summarize_evaluations(progress: TrainingProgress) -> dict[str, Any]:
    """Return the entries of ``result.json`` about the evaluations during a training; empty if there was none."""
    returns = progress.evaluations
    if not returns:
        return {}
    return {
        "last_ten_evaluations": _compute_mean(returns[-LAST_EVALUATIONS:]),
        "max_evaluation": max(returns),
        "evaluations": {"env_steps": progress.evaluation_steps, "mean_return": returns},
        "seconds_evaluation": progress.seconds_evaluation,
    }


def _compute_mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _list_runs(parent: Path) -> list[tuple[datetime.datetime, Path]]:
    """Return time and folder of each run in ``parent``, newest first."""
    runs = [path.parent for path in parent.glob(f"*/{MANIFEST}")]
    return sorted(((get_creation_time(run), run) for run in runs), reverse=True)


def _read_manifest(run: Path) -> Manifest | None:
    """Return the manifest in a run folder, or None if it is damaged."""
    try:
        return read_json_record(run / MANIFEST, Manifest)
    except ReadingError:
        return None


def _rebuild_manifest(run: Path, library: str) -> Manifest:
    """Return a manifest rebuilt from the newest readable checkpoint of the run."""
    log.warning("%s: is damaged; reading task, agent and seed from the run's checkpoints", run / MANIFEST)
    path = _find_latest_valid(list_checkpoints(run), library)
    identity = {} if path is None else get_identity(read_checkpoint(str(path), library=library))
    # the task of a classification is its dataset
    task = identity.get("task") or identity.get("dataset", "").rpartition(":")[2].lower()
    metadata = ManifestMetadata(agent=identity.get("agent"))
    return Manifest(task=task, metadata=metadata, seed=identity.get("seed"))


def get_creation_time(run: Path) -> datetime.datetime:
    """Return a run's creation time from its manifest, or else from its folder's name, or else the earliest time there is.

    A name has whole seconds; the last microsecond of the second counts.
    """
    if (manifest := _read_manifest(run)) is not None and manifest.created_at is not None:
        return manifest.created_at
    try:
        return _add_timezone(datetime.datetime.strptime(run.name[:19], STAMP)).replace(microsecond=999_999)
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _add_timezone(time: datetime.datetime) -> datetime.datetime:
    """Return ``time`` with a timezone: its own, or the machine's if it has none."""
    return time if time.tzinfo is not None else time.astimezone()
