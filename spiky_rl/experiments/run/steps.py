"""The steps of a cell: the requests for its training and its evaluation, from the specification in its folder."""

from __future__ import annotations

from pathlib import Path

from spiky_rl.config.budget import parse_budget
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import build_agent_spec
from spiky_rl.experiments.design.grid import EVALUATION, Cell, CellSpecification
from spiky_rl.experiments.run.cells import find_differences, read_cell
from spiky_rl.run.provenance import get_versions, read_provenance
from spiky_rl.run.run_plan import RANDOM, RunRequest, TrainOptions


def make_training_request(
    folder: Path, checkpoint: str | None, teacher: str | None, distributed: bool
) -> tuple[RunRequest, TrainOptions]:
    """Return the request and the options of a cell's training.

    Args:
        folder: The cell's folder.
        checkpoint: Checkpoint to resume from; None starts anew.
        teacher: Checkpoint of its teacher; None without one.
        distributed: Whether this is one of several processes.
    """
    given = read_checked_cell(folder).specification
    budget = None if given.budget is None else parse_budget(given.budget, "budget")
    request = _make_request(folder, given, given.seed, checkpoint, given.num_envs, distributed)
    return request, TrainOptions(budget=budget, teacher=teacher, choose_best=False)


def make_evaluation_request(folder: Path) -> tuple[RunRequest, int, str, Path]:
    """Return the request of the evaluation of the cell in ``folder``, episodes, conditions, and the path of its result."""
    cell = read_checked_cell(folder)
    given, checkpoint = cell.specification, "latest" if cell.is_trained else RANDOM
    request = _make_request(folder, given, given.evaluation_seed, checkpoint, None, False)
    return request, given.episodes, ",".join(given.conditions), folder / EVALUATION


def read_checked_cell(folder: Path) -> Cell:
    """Return the cell in ``folder``. Raises UserError if kernels, threads or versions differ from the plan."""
    cell = read_cell(folder)
    if cell.provenance is not None:
        here = read_provenance(cell.device, cell.specification.task, cell.physics)
        differing = find_differences(here, get_versions(), cell.provenance, cell.versions)
        for key, (ours, planned) in differing.items():
            raise UserError(f"{key}: {ours} here, but {planned} in the plan; run the cell as it was planned")
    return cell


def _make_request(
    folder: Path,
    given: CellSpecification,
    seed: int,
    checkpoint: str | None,
    num_envs: int | None,
    distributed: bool,
) -> RunRequest:
    """Return the request of both steps; the agent is that of the plan."""
    values = {
        "task": given.task,
        "agent": given.agent,
        "library": given.library,
        "tuning": folder.parents[1] / given.tuned if given.tuned else None,
        "num_envs": num_envs,
        "seed": seed,
        "device": given.device,
        "checkpoint": checkpoint,
        "assets": given.assets,
        "log_root": folder / "run",
        "distributed": distributed,
        "overrides": given.overrides,
        "spec": build_agent_spec(Path(given.agent).stem, given.spec, given.origins),
    }
    return RunRequest.check("specification", values)
