"""Run folders: where they lie, what they say of themselves, and which checkpoint a name stands for.

The layout is Isaac Lab's, ``logs/<library>/<experiment>/<date>[_run]``, with its ``run.json``, so that for rsl_rl either
command line finds the other's runs. Beside the numbered checkpoints lies ``best.pt``, the best of them.
"""

from __future__ import annotations

import datetime
import logging
import math
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
"""Beginning of a run folder's name."""
FINAL = 10
"""Iterations over which ``mean_return_final`` is the mean."""


def is_time(text: str) -> str:
    """The ``text``, if it is a time that others can come after. Raises RegistryError."""
    try:
        if 1970 < datetime.datetime.fromisoformat(text).year < datetime.MAXYEAR:
            return text
    except ValueError:
        pass
    raise RegistryError(f"{shorten(text)} is no time of a run")


class About(FileRecord):
    """Part of a manifest that tells runs of a task apart."""

    agent: str | None = None


class Manifest(FileRecord):
    """Record of a run in its ``run.json``, as either command line writes it."""

    task: str
    created_at: Annotated[str, AfterValidator(is_time)] | None = None
    metadata: About = About()
    seed: Count | None = None

    @property
    def created(self) -> datetime.datetime | None:
        """When the run was made; None if the manifest does not say."""
        return None if self.created_at is None else _aware(datetime.datetime.fromisoformat(self.created_at))


def create_run_folder(
    root: Path,
    experiment: str,
    run_name: str,
    task: str,
    agent: str,
    library: str = DEFAULT_LEARNER,
    seed: int | None = None,
) -> Path:
    """Make a run folder with its manifest, which says that it was made after all runs beside it, whatever the clock says.

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
    stamp = datetime.datetime.now().strftime(STAMP)
    parent = root / library / experiment
    now = datetime.datetime.now(datetime.UTC)
    # a clock may have been set back since the last run, and the newest one is found by this time
    created = max([now, *(time + datetime.timedelta(microseconds=1) for time, _ in _runs(parent))])
    name = f"{stamp}_{run_name}" if run_name else stamp
    taken = 1
    while True:
        folder = parent / (name if taken == 1 else f"{name}_{taken}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            taken += 1
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
    """Write what a run is made from, with the origin of every value, into its folder.

    Args:
        folder: The run's.
        spec: The merged specification.
    """
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
    only: bool = True,
) -> Path:
    """The file that ``latest``, ``best``, a run folder or a path stands for.

    The newest run is the one that was made last, as the runs' manifests say; of its checkpoints it is the newest that is whole. Each
    damaged one is named in a warning. Raises CheckpointError.

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
        held = list_checkpoints(path)
        if (path := _find_latest_valid(held, library)) is None:
            _raise_all_damaged(name, len(held))
        return path
    parent = root / library / experiment
    damaged, seeds = 0, set()
    for _, run in _runs(parent):
        manifest = _manifest(run) or _rebuild_manifest(run, library)
        if manifest.task != task or agent not in (None, manifest.metadata.agent):
            continue
        theirs = manifest.seed
        if seed is not None and theirs not in (None, seed):
            seeds.add(theirs)
            continue
        held = list_checkpoints(run) + ([run / BEST] if name == "best" and (run / BEST).is_file() else [])
        path = _find_latest_valid(held, library)
        if path is None:
            damaged += len(held)
            continue
        if theirs is None:  # a run of before manifests had it
            theirs = get_identity(read_checkpoint(str(path), library=library)).get("seed")
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
        _raise_all_damaged(name, damaged)
    raise CheckpointError(
        f"--checkpoint {name}: no run of {agent or 'any agent'} on {task} with a checkpoint lies in {str(parent)!r}; train one first"
    )


def _find_latest_valid(held: list[Path], library: str) -> Path | None:
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


def _raise_all_damaged(name: str, count: int) -> NoReturn:
    """Raise CheckpointError: all are damaged."""
    raise CheckpointError(f"--checkpoint {name}: all {count} checkpoints are damaged; train again without it")


def write_result(path: Path, progress: TrainingProgress, **more: object) -> dict[str, Any]:
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
        "worlds_reset": progress.worlds_reset,
        "curve": build_curve(progress),
        "versions": get_versions(),
    }
    files.write_json(path, result)
    return result


def build_curve(progress: TrainingProgress) -> dict[str, list[Any]]:
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


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _runs(parent: Path) -> list[tuple[datetime.datetime, Path]]:
    """Time and folder of each run in the folder ``parent``, the newest first."""
    runs = [path.parent for path in parent.glob(f"*/{MANIFEST}")]
    return sorted(((_created(run), run) for run in runs), reverse=True)


def _manifest(run: Path) -> Manifest | None:
    """The manifest in the folder of a ``run``; None if it is damaged."""
    try:
        return read_json_record(run / MANIFEST, Manifest)
    except ReadingError:
        return None


def _rebuild_manifest(run: Path, library: str) -> Manifest:
    """What a damaged manifest said, by the newest of the run's checkpoints that is whole."""
    log.warning("%s: is damaged; what the run is of is read from its checkpoints", run / MANIFEST)
    path = _find_latest_valid(list_checkpoints(run), library)
    theirs = {} if path is None else get_identity(read_checkpoint(str(path), library=library))
    # a classification's are called as their datasets are
    task = theirs.get("task") or theirs.get("dataset", "").rpartition(":")[2].lower()
    return Manifest(task=task, metadata=About(agent=theirs.get("agent")), seed=theirs.get("seed"))


def _created(run: Path) -> datetime.datetime:
    """When a ``run`` was made: as its manifest says, else at the end of the second that its folder's name says, else before all others."""
    if (manifest := _manifest(run)) is not None and manifest.created is not None:
        return manifest.created
    try:
        return _aware(datetime.datetime.strptime(run.name[:19], STAMP)).replace(microsecond=999_999)
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _aware(time: datetime.datetime) -> datetime.datetime:
    """A ``time`` with its zone: the machine's where it has none."""
    return time if time.tzinfo is not None else time.astimezone()
