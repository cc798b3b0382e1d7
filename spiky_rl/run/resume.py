"""A training that is resumed: it takes up the settings that its run folder has recorded, where the command line gives no others."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spiky_rl.config import files
from spiky_rl.config.budget import OptionalBudget
from spiky_rl.config.named_code import check_code_is_named, find_code, list_texts
from spiky_rl.config.options import FileRecord, UserError, option
from spiky_rl.config.safe_loading import parse_yaml, read_json_record
from spiky_rl.config.schema import MOST_STEPS
from spiky_rl.config.spec import read_agent
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.learners.common import checkpoints
from spiky_rl.run import run_folders
from spiky_rl.run.run_plan import RunPlan, RunRequest, TrainOptions, list_trusted_packages

log = logging.getLogger(__name__)

RECORD = "settings.json"
"""In a run's folder: how the run was asked for."""
LENGTH = "agent.max_iterations"
"""The override that says how many iterations a run has, as --max_iterations does."""


class RunSettings(FileRecord):
    """Settings of a run, as its folder records them."""

    num_envs: int = option(..., "parallel environments of each process", low=1, high=MOST_STEPS)
    seed: int = option(..., "seed of environment and agent", low=0, high=MOST_STEPS)
    device: str = option(..., "device")
    deterministic: bool = option(False, "whether kernels were deterministic")
    overrides: tuple[str, ...] = option((), "overrides of agent and environment")
    tuning: Annotated[Path, Field(strict=False)] | None = option(None, "file of the tuned values; null: none")
    processes: int = option(1, "processes of the training", low=1)
    budget: OptionalBudget = option(None, "budget; null: iterations are counted")
    max_iterations: int | None = option(None, "iterations of the whole run; null: a budget ends it", low=1)


def write_settings(folder: Path, plan: RunPlan, options: TrainOptions, iterations: int | None) -> None:
    """Record in the run's ``folder`` how the run was asked for.

    Args:
        folder: The run's.
        plan: What is trained.
        options: How.
        iterations: Iterations of the whole run, those before it was resumed included; None: a budget ends it.
    """
    asked, tuning = plan.request, plan.request.tuning
    settings = RunSettings(
        num_envs=plan.num_envs,
        seed=plan.seed,
        device=plan.device.partition(":")[0] if asked.distributed else plan.device,
        deterministic=asked.deterministic,
        overrides=asked.overrides,
        tuning=None if tuning is None else tuning.absolute(),
        processes=int(os.environ["WORLD_SIZE"]) if asked.distributed else 1,
        budget=options.budget,
        max_iterations=iterations,
    )
    files.write_json(folder / RECORD, settings.model_dump(mode="json"))


def take_up(plan: RunPlan, options: TrainOptions) -> tuple[RunRequest, TrainOptions]:
    """The request for a training that goes on from a checkpoint: with the run's own settings where none are given.

    Args:
        plan: What is trained, as the command line gives it.
        options: How, likewise.

    Raises:
        UserError: There is no such checkpoint of this task and agent, or its run's record is damaged.
    """
    asked = plan.request
    assert asked.checkpoint is not None
    checkpoint = run_folders.find_checkpoint(
        asked.checkpoint, asked.log_root, plan.experiment, plan.task, plan.agent, plan.library,
        None if asked.seed == -1 else asked.seed,
    )  # fmt: skip
    loaded = checkpoints.read_checkpoint(str(checkpoint), library=plan.library)
    checkpoints.check_identity(loaded, plan.identity, str(checkpoint))
    given = asked.model_fields_set | options.model_fields_set
    asked = asked.with_changes(checkpoint=str(checkpoint))
    settings = read_settings(checkpoint)
    if settings is None:
        log.info("%s: has no %s; what is not given is as the task has it", checkpoint.parent, RECORD)
        return asked, options
    check_code(checkpoint.parent / RECORD, settings, asked)
    changes: dict[str, Any] = {}
    how: dict[str, Any] = {}
    others: list[str] = []
    for key in ("num_envs", "seed", "device", "deterministic", "tuning"):
        theirs, ours = getattr(settings, key), getattr(asked, key)
        if key not in given:
            changes[key] = theirs
        elif (ours.absolute() if isinstance(ours, Path) else ours) != theirs:
            others.append(f"--{key} {ours}, not {theirs}")
    recorded = [text for text in settings.overrides if not text.startswith(f"{LENGTH}=")]
    changes["overrides"] = _merge_overrides(recorded, asked.overrides, others)
    if _is_length_open(asked, options):
        left = (settings.max_iterations or 0) - loaded["iter"] - 1
        if settings.budget is not None:
            how["budget"] = settings.budget
        elif left > 0:
            changes["max_iterations"] = left
    if settings.processes > 1 and not asked.distributed and options.processes is None:
        if settings.device == "cpu":
            how["processes"] = settings.processes
        else:
            others.append(f"1 process, not {settings.processes}")
    if others:
        log.info("the command line wins over the run's settings: %s", "; ".join(others))
    return asked.with_changes(**changes), options.with_changes(**how)


def check_code(record: Path, settings: RunSettings, asked: RunRequest) -> None:
    """Refuse a ``record`` whose overrides or tuned values name code that the user does not name.

    Args:
        record: The file.
        settings: What it holds.
        asked: What the user wrote.

    Raises:
        UserError: It names other code.
    """
    named = list_texts([read_agent(asked.agent)[1], *map(_read_values, asked.overrides)])
    remedy = "pass it again, so that it is you who names that code"
    recorded = list(map(_read_values, settings.overrides))
    check_code_is_named(record, recorded, named, remedy, list_trusted_packages())
    if settings.tuning is not None and asked.tuning is None:
        tuned = read_tuned(settings.tuning)
        values = [agent.agent for agents in tuned.tasks.values() for agent in agents.values()]
        remedy = "pass --tuning again, so that it is you who names that code"
        check_code_is_named(tuned.path, values, named, remedy, list_trusted_packages())


def find_named_code(overrides: Sequence[str]) -> list[str]:
    """Return the ``overrides`` that name code, which a command that resumes their run has to repeat."""
    return [text for text in overrides if find_code(_read_values(text), list_trusted_packages())]


def _read_values(override: str) -> dict[str, Any]:
    """Return all that an ``override`` may be read as, below the last part of its key; addresses of files are left out.

    We read YAML, Isaac Lab Python's literals or else the text itself.
    """
    path, _, text = override.partition("=")
    values = [text, parse_yaml(text)]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        values.append(ast.literal_eval(text))
    return {path.rpartition(".")[2]: [value for value in list_texts(values) if "://" not in value]}


def require_iterations(plan: RunPlan, options: TrainOptions, checkpoint: Path) -> None:
    """Raise UserError where the run of a ``checkpoint`` has had all its iterations, and no more are asked for.

    Args:
        plan: What is trained, with what the run has recorded.
        options: How, likewise.
        checkpoint: The file.
    """
    if plan.request.spec is not None or not _is_length_open(plan.request, options):
        return
    settings = read_settings(checkpoint)
    if settings is not None and settings.max_iterations is not None:
        raise UserError(
            f"--checkpoint {checkpoint}: the run has had its {settings.max_iterations} iterations; give --max_iterations for that"
            " many more"
        )


def read_settings(checkpoint: Path) -> RunSettings | None:
    """The settings of a checkpoint's run; None if it has no record. Raises ReadingError for a damaged one."""
    record = checkpoint.parent / RECORD
    return read_json_record(record, RunSettings) if record.is_file() else None


def _is_length_open(asked: RunRequest, options: TrainOptions) -> bool:
    """Whether nothing says how long a training is."""
    keys = {text.partition("=")[0] for text in asked.overrides}
    return asked.max_iterations is None and options.budget is None and LENGTH not in keys


def _merge_overrides(recorded: Sequence[str], given: Sequence[str], others: list[str]) -> tuple[str, ...]:
    """The ``recorded`` overrides, and those that are ``given`` in their place, each of which is added to ``others``."""
    values = {text.partition("=")[0]: text for text in recorded}
    for text in given:
        key = text.partition("=")[0]
        before = values.pop(key, text)
        others += [] if before == text else [f"{text}, not {before.partition('=')[2]}"]
        values[key] = text
    return tuple(values.values())
