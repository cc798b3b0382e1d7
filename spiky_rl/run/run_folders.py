"""Run folders: their layout, their manifests, and the search for checkpoints by name.

The layout and ``run.json`` are Isaac Lab's, ``logs/<library>/<experiment>/<date>[_run]``, so that with rsl_rl the commands of Isaac
Lab and of this package find each other's runs. ``best.pt`` is the best checkpoint of a run.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import yaml
from pydantic import AfterValidator

from spiky_rl.config import files
from spiky_rl.config.options import FileRecord, RegistryError, shorten
from spiky_rl.config.safe_loading import ReadingError, read_json_record
from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners import DEFAULT_LEARNER
from spiky_rl.learners.common.checkpoint_names import CheckpointError, list_checkpoints, require_checkpoint
from spiky_rl.learners.common.checkpoints import get_identity, read_checkpoint
from spiky_rl.learners.common.progress import Count, TrainingProgress
from spiky_rl.run.provenance import get_versions

log = logging.getLogger(__name__)

BEST, MANIFEST = "best.pt", "run.json"
STAMP = "%Y-%m-%d_%H-%M-%S"
"""Time format at the start of a run folder's name."""
FINAL_ITERATIONS = 10
"""Number of last iterations whose mean is ``mean_return_final``."""
LAST_EVALUATIONS = 10
"""Number of last evaluations whose mean is ``last_ten_evaluations``."""


def check_time(text: str) -> str:
    """Return ``text`` if it is an ISO 8601 time after 1970 and before the last year. Raises RegistryError otherwise."""
    try:
        if 1970 < datetime.datetime.fromisoformat(text).year < datetime.MAXYEAR:
            return text
    except ValueError:
        pass
    raise RegistryError(f"{shorten(text)} is not a valid time of a run; allowed: an ISO 8601 time after 1970")


class ManifestMetadata(FileRecord):
    """Metadata of a manifest."""

    agent: str | None = None


class Manifest(FileRecord):
    """Content of a run's ``run.json``, written by Isaac Lab's command or by ours."""

    task: str
    created_at: Annotated[str, AfterValidator(check_time)] | None = None
    metadata: ManifestMetadata = ManifestMetadata()
    seed: Count | None = None

    @property
    def created(self) -> datetime.datetime | None:
        """Creation time of the run; None if the manifest has none."""
        if self.created_at is None:
            return None
        return _add_timezone(datetime.datetime.fromisoformat(self.created_at))


def create_run_folder(
    root: Path,
    experiment: str,
    run_name: str,
    task: str,
    agent: str,
    library: str = DEFAULT_LEARNER,
    seed: int | None = None,
) -> Path:
    """Create a run folder with its manifest, whose creation time is later than that of all runs beside it.

    Args:
        root: Folder of all runs.
        experiment: Folder of the task's runs below ``root/library``.
        run_name: Suffix of the folder's name after the date; may be empty.
        task: Task of the run.
        agent: Agent of the run.
        library: Name of the learner.
        seed: Seed of the run.

    Raises:
        UserError: A name is not a plain folder name.
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
    """Return the checkpoint that a name refers to. Raises CheckpointError.

    ``latest`` and ``best`` mean the last and the best checkpoint of the newest matching run, by the times in the manifests. Damaged
    checkpoints are skipped with a warning.

    Args:
        name: ``latest``, ``best``, a run folder or a file.
        root: Folder of all runs.
        experiment: Folder of the task's runs below ``root/library``.
        task: Task of the run.
        agent: Agent of the run; None for any.
        library: Name of the learner.
        seed: Seed of the run for ``latest`` and ``best``; None for any.
        requires_seed: Whether a run must have ``seed``; if False and no run has it, the newest run is used.
    """
    if name not in ("latest", "best"):
        return _find_named_checkpoint(name, library)
    parent = root / library / experiment
    damaged, other_seeds = 0, set()
    for run, manifest in _iterate_runs(parent, library, task, agent):
        run_seed = manifest.seed
        if seed is not None and run_seed not in (None, seed):
            other_seeds.add(run_seed)
            continue
        checkpoints = _list_candidates(run, name)
        path = _find_latest_valid(checkpoints, library)
        if path is None:
            damaged += len(checkpoints)
            continue
        if run_seed is None:  # an older manifest without a seed
            run_seed = get_identity(read_checkpoint(str(path), library=library)).get("seed")
        if seed in (None, run_seed):
            return path
        other_seeds.add(run_seed)
    missing = f"--checkpoint {name}: no run of {agent or 'any agent'} on {task}"
    if other_seeds:
        if not requires_seed:
            log.info("--seed %s: no run was trained with it; taking the newest run", seed)
            return find_checkpoint(name, root, experiment, task, agent, library)
        raise CheckpointError(
            f"{missing} with --seed {seed} in {str(parent)!r}; seeds of its runs: {', '.join(sorted(map(str, other_seeds)))};"
            " remove --seed, or pass the checkpoint's file"
        )
    if damaged:
        _raise_all_damaged(name, damaged)
    raise CheckpointError(f"{missing} with a checkpoint in {str(parent)!r}; train one first")


def _list_candidates(run: Path, name: str) -> list[Path]:
    """Return the checkpoints of a ``run`` for the ``name`` latest or best, the preferred one last."""
    checkpoints = list_checkpoints(run)
    if name == "best" and (run / BEST).is_file():
        checkpoints.append(run / BEST)
    return checkpoints


def _find_named_checkpoint(name: str, library: str) -> Path:
    """Return the file ``name``, or the last readable checkpoint of the run folder ``name``. Raises CheckpointError."""
    path = Path(name)
    if path.is_file():
        return path
    require_checkpoint(name)
    checkpoints = list_checkpoints(path)
    checkpoint = _find_latest_valid(checkpoints, library)
    if checkpoint is None:
        _raise_all_damaged(name, len(checkpoints))
    return checkpoint


def _iterate_runs(
    parent: Path, library: str, task: str, agent: str | None
) -> Iterator[tuple[Path, Manifest]]:
    """Yield the runs below ``parent`` of a ``task`` and an ``agent`` (None for any), newest first, with their manifests."""
    for _, run in _list_runs(parent):
        manifest = _read_manifest(run) or _rebuild_manifest(run, library)
        if manifest.task == task and agent in (None, manifest.metadata.agent):
            yield run, manifest


def _find_latest_valid(checkpoints: list[Path], library: str) -> Path | None:
    """Return the last readable checkpoint, or None; remove temporary files of killed writers beside it."""
    if checkpoints:
        files.remove_leftovers(checkpoints[0].parent)
    for path in reversed(checkpoints):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except CheckpointError as error:
            log.warning("%s; trying an older checkpoint", error)
    return None


def _raise_all_damaged(name: str, count: int) -> NoReturn:
    """Raise CheckpointError that all ``count`` checkpoints are damaged."""
    raise CheckpointError(f"--checkpoint {name}: all {count} checkpoints are damaged; train again without it")


def write_result(path: Path, progress: TrainingProgress, **first_entries: object) -> dict[str, Any]:
    """Write ``result.json`` and return its content; returns are null if no episode has ended.

    Args:
        path: The file.
        progress: Progress of the run.
        first_entries: Further entries, which come first.
    """
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

    The name has whole seconds, of which the end counts.
    """
    if (manifest := _read_manifest(run)) is not None and manifest.created is not None:
        return manifest.created
    try:
        return _add_timezone(datetime.datetime.strptime(run.name[:19], STAMP)).replace(microsecond=999_999)
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _add_timezone(time: datetime.datetime) -> datetime.datetime:
    """Return ``time`` with a timezone: its own, or the machine's if it has none."""
    return time if time.tzinfo is not None else time.astimezone()
