"""Resuming a training with the settings recorded in its run folder; the command line takes precedence."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spiky_rl.config import files
from spiky_rl.config.budget import Budget, OptionalBudget
from spiky_rl.config.named_code import check_code_is_named, find_code, list_texts
from spiky_rl.config.options import FileRecord, UserError, option
from spiky_rl.config.safe_loading import parse_yaml, read_json_record
from spiky_rl.config.schema import MAX_INT32
from spiky_rl.config.spec import read_agent
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.learners.common.checkpoints import get_runner_state, read_checkpoint
from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.run.checkpoint import read_requested_checkpoint
from spiky_rl.run.run_plan import RunPlan, RunRequest, TrainOptions, list_trusted_packages

log = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
"""File of the run's settings in its run folder."""
MAX_ITERATIONS_KEY = "agent.max_iterations"
"""Key of the override that has the effect of --max_iterations."""


class RunSettings(FileRecord):
    """Recorded settings of a run."""

    num_envs: int = option(..., "parallel environments of each process", low=1, high=MAX_INT32)
    seed: int = option(..., "seed of environment and agent", low=0, high=MAX_INT32)
    device: str = option(..., "device")
    deterministic: bool = option(False, "whether kernels were deterministic")
    overrides: tuple[str, ...] = option((), "overrides of agent and environment")
    tuning: Annotated[Path, Field(strict=False)] | None = option(None, "file of the tuned values; null: none")
    processes: int = option(1, "processes of the training", low=1)
    budget: OptionalBudget = option(None, "budget; null: iterations are counted")
    max_iterations: int | None = option(None, "iterations of the whole run; null: a budget ends it", low=1)


def write_settings(folder: Path, plan: RunPlan, options: TrainOptions, iterations: int | None) -> None:
    """Write the settings of a run into its folder; ``iterations`` are those of the whole run, None if a budget ends it."""
    request, tuning = plan.request, plan.request.tuning
    settings = RunSettings(
        num_envs=plan.num_envs,
        seed=plan.seed,
        device=plan.device.partition(":")[0] if request.distributed else plan.device,
        deterministic=request.deterministic,
        overrides=request.overrides,
        tuning=None if tuning is None else tuning.absolute(),
        processes=int(os.environ["WORLD_SIZE"]) if request.distributed else 1,
        budget=options.budget,
        max_iterations=iterations,
    )
    files.write_json(folder / SETTINGS_FILE, settings.model_dump(mode="json"))


def restore_settings(plan: RunPlan, options: TrainOptions) -> tuple[RunRequest, TrainOptions]:
    """Return request and options of a resumed training, with the run's recorded settings for everything not given.

    Raises UserError if there is no such checkpoint of this task and agent, or the run's record is damaged.
    """
    checkpoint, loaded = read_requested_checkpoint(plan)
    request = plan.request
    given_keys = request.model_fields_set | options.model_fields_set
    request = request.with_changes(checkpoint=str(checkpoint))
    settings = read_settings(checkpoint)
    if settings is None:
        log.info(
            "%s: has no %s; using the task's defaults for everything not given",
            checkpoint.parent,
            SETTINGS_FILE,
        )
        return request, options
    check_code(checkpoint.parent / SETTINGS_FILE, settings, request)
    changes, differences = _restore_request(settings, request, given_keys)
    changed_options = _restore_processes(settings, request, options, differences)
    remaining = (settings.max_iterations or 0) - loaded["iter"] - 1
    if not _has_length(request, options):
        if settings.budget is not None:
            changed_options["budget"] = settings.budget
        elif remaining > 0:
            changes["max_iterations"] = remaining
    if differences:
        log.info("the command line overrides the run's settings: %s", "; ".join(differences))
    return request.with_changes(**changes), options.with_changes(**changed_options)


def _restore_processes(
    settings: RunSettings, request: RunRequest, options: TrainOptions, differences: list[str]
) -> dict[str, Any]:
    """Return the option that restores several processes on a CPU; on a GPU, add to ``differences`` that there is one process."""
    if settings.processes == 1 or request.distributed or options.processes is not None:
        return {}
    if settings.device == "cpu":
        return {"processes": settings.processes}
    differences.append(f"1 process, not {settings.processes}")
    return {}


def _restore_request(
    settings: RunSettings, request: RunRequest, given_keys: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return changes of a ``request`` that restore recorded ``settings``, and a text for each given value that differs."""
    changes: dict[str, Any] = {}
    differences: list[str] = []
    for key in ("num_envs", "seed", "device", "deterministic", "tuning"):
        recorded_value, requested_value = getattr(settings, key), getattr(request, key)
        if key not in given_keys:
            changes[key] = recorded_value
            continue
        # paths are recorded as absolute ones
        compared_value = requested_value.absolute() if isinstance(requested_value, Path) else requested_value
        if compared_value != recorded_value:
            differences.append(f"--{key} {requested_value}, not {recorded_value}")
    recorded = [text for text in settings.overrides if not text.startswith(f"{MAX_ITERATIONS_KEY}=")]
    changes["overrides"] = _merge_overrides(recorded, request.overrides, differences)
    return changes, differences


def check_code(record: Path, settings: RunSettings, request: RunRequest) -> None:
    """Raise UserError if overrides or tuned values in the file ``record`` name code that the user did not name."""
    named = list_texts([read_agent(request.agent)[1], *map(_read_values, request.overrides)])
    remedy = "pass it again to allow the code"
    recorded = list(map(_read_values, settings.overrides))
    check_code_is_named(record, recorded, named, remedy, list_trusted_packages())
    if settings.tuning is not None and request.tuning is None:
        tuned = read_tuned(settings.tuning)
        values = [agent.agent for agents in tuned.tasks.values() for agent in agents.values()]
        remedy = "pass --tuning again to allow the code"
        check_code_is_named(tuned.path, values, named, remedy, list_trusted_packages())


def find_named_code(overrides: Sequence[str]) -> list[str]:
    """Return the ``overrides`` that name code; a command that resumes the run has to repeat them."""
    return [text for text in overrides if find_code(_read_values(text), list_trusted_packages())]


def _read_values(override: str) -> dict[str, Any]:
    """Return all values that an ``override`` may have, under the last part of its key, without URLs.

    For us the text is YAML. For Isaac Lab it is a Python literal or, if it is not one, the text itself; a text that ends with a bracket
    names no class.
    """
    path, _, text = override.partition("=")
    values = [parse_yaml(text)] if text.rstrip().endswith(("}", "]")) else [text, parse_yaml(text)]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        values.append(ast.literal_eval(text))
    return {path.rpartition(".")[2]: [value for value in list_texts(values) if "://" not in value]}


def require_iterations(plan: RunPlan, options: TrainOptions, checkpoint: Path) -> None:
    """Raise UserError if the run of a checkpoint is complete, or has spent its budget, and no more iterations are requested."""
    if plan.request.spec is not None:  # a study's cell may have stopped just before its result was written
        return
    if options.budget is not None and _is_spent(options.budget, checkpoint, plan.library):
        raise UserError(
            f"--checkpoint {checkpoint}: its run has spent the budget {options.budget}; pass a larger one with --budget, or the"
            " number of additional iterations with --max_iterations"
        )
    if _has_length(plan.request, options):
        return
    settings = read_settings(checkpoint)
    if settings is not None and settings.max_iterations is not None:
        raise UserError(
            f"--checkpoint {checkpoint}: the run has completed its {settings.max_iterations} iterations; pass the number of"
            " additional ones with --max_iterations"
        )


def _is_spent(budget: Budget, checkpoint: Path, library: str) -> bool:
    """Return whether the training of a ``checkpoint`` has spent a ``budget``."""
    state = get_runner_state(read_checkpoint(str(checkpoint), library=library))
    progress = TrainingProgress(**(state.get("progress") or {}))
    return budget.compute_share(progress.env_steps, progress.seconds_total, progress.total_operations) >= 1.0


def read_settings(checkpoint: Path) -> RunSettings | None:
    """Return the settings of a checkpoint's run, or None if the run has no record. Raises ReadingError for a damaged record."""
    record = checkpoint.parent / SETTINGS_FILE
    return read_json_record(record, RunSettings) if record.is_file() else None


def _has_length(request: RunRequest, options: TrainOptions) -> bool:
    """Return whether iterations or a budget are given."""
    keys = {text.partition("=")[0] for text in request.overrides}
    return request.max_iterations is not None or options.budget is not None or MAX_ITERATIONS_KEY in keys


def _merge_overrides(
    recorded: Sequence[str], requested: Sequence[str], differences: list[str]
) -> tuple[str, ...]:
    """Return the ``recorded`` overrides updated with the ``requested`` ones; add a text to ``differences`` for each changed value.

    A repeated key keeps its place: if it moved behind a recorded key below it, it would drop that key's value.
    """
    values = {text.partition("=")[0]: text for text in recorded}
    for text in requested:
        key = text.partition("=")[0]
        earlier = values.get(key, text)
        if earlier != text:
            differences.append(f"{text}, not {earlier.partition('=')[2]}")
        values[key] = text
    return tuple(values.values())
