"""Run requests of a study's cell (one agent, task, variant and seed): one to train, one to evaluate.

Both follow the specification in the cell's folder.
"""

from __future__ import annotations

from pathlib import Path

from spiky_rl.config.budget import Budget, parse_budget
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import build_agent_spec, load_task
from spiky_rl.experiments.design.grid import EVALUATION, Cell, CellSpecification, hash_task
from spiky_rl.experiments.design.tunings import get_agent_name
from spiky_rl.experiments.run.cells import find_differences, read_cell
from spiky_rl.run.provenance import collect_provenance, get_versions, hash_named_files
from spiky_rl.run.run_plan import RANDOM, EvaluateOptions, RunRequest, TrainOptions

SHARED_KEYS = {"task", "agent", "library", "device", "assets", "overrides"}
"""Keys that a cell's specification and a request have in common."""


def make_training_request(
    folder: Path, checkpoint: str | None, teacher: str | None, distributed: bool
) -> tuple[RunRequest, TrainOptions]:
    """Return the request and the options of the training of the cell in ``folder``; a ``checkpoint`` of None starts anew.

    ``distributed`` says whether this is one of several processes. Raises UserError like `read_checked_cell`.
    """
    cell = read_checked_cell(folder)
    specification = cell.specification
    budget = None if specification.budget is None else parse_budget(specification.budget, "budget")
    if budget is None and checkpoint is not None and cell.env_steps is not None:
        # without a budget, a resumed training would do the task's number of iterations once more
        budget = Budget("env_steps", cell.env_steps)
    request = _make_request(
        folder,
        specification,
        seed=specification.seed,
        checkpoint=checkpoint,
        num_envs=specification.num_envs,
        distributed=distributed,
    )
    return request, TrainOptions(budget=budget, teacher=teacher, choose_best=False)


def make_evaluation_request(folder: Path) -> tuple[RunRequest, EvaluateOptions]:
    """Return the request and the options of the evaluation of the cell in ``folder``.

    Raises UserError like `read_checked_cell`.
    """
    cell = read_checked_cell(folder)
    specification = cell.specification
    checkpoint = "latest" if cell.trains_agent else RANDOM
    request = _make_request(folder, specification, seed=specification.evaluation_seed, checkpoint=checkpoint)
    options = EvaluateOptions(
        episodes=specification.episodes,
        conditions=",".join(specification.conditions),
        out=folder / EVALUATION,
    )
    return request, options


def read_checked_cell(folder: Path) -> Cell:
    """Return the cell in ``folder``. Raises UserError if kernels, threads, versions or files differ from the plan."""
    cell = read_cell(folder)
    if cell.provenance is None:
        return cell
    present = collect_provenance(cell.device, cell.specification.task, cell.physics)
    differences = find_differences(present, get_versions(), cell.provenance, cell.versions)
    present_files = hash_named_files(cell.specification.spec)
    pairs = {name: (present_files.get(name, "no file"), digest) for name, digest in cell.files.items()}
    if cell.task_hash is not None:
        task = cell.specification.task
        pairs[f"task file of {task}"] = (hash_task(load_task(task)), cell.task_hash)
    differences |= {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if differences:
        key, (present_value, planned_value) = next(iter(differences.items()))
        raise UserError(
            f"{key}: {present_value} here, but {planned_value} in the plan; run the cell as it was planned"
        )
    return cell


def _make_request(folder: Path, specification: CellSpecification, **own: object) -> RunRequest:
    """Return a request with its ``own`` values and the agent of the plan, which is not merged again."""
    study_folder = folder.absolute().parents[1]  # the cell's folder is STUDY/cells/CELL
    values = {
        **specification.model_dump(include=SHARED_KEYS),
        "tuning": study_folder / specification.tuned if specification.tuned else None,
        "log_root": folder / "run",
        "spec": build_agent_spec(
            get_agent_name(specification.agent), specification.spec, specification.origins
        ),
        **own,
    }
    return RunRequest.check("specification", values)
