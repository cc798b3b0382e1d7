"""``spiky publish``: add the policy of a finished run to policies/, for --checkpoint pretrained."""

from __future__ import annotations

import argparse
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.config.options import UserError
from spiky_rl.learners import DEFAULT_LEARNER, list_learners
from spiky_rl.learners.common.checkpoint_names import is_numbered, list_checkpoints, read_iteration

EVALUATION = "evaluation.json"


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    command_parser = common.Parser(
        "publish",
        "Add the policy of a finished run to policies/: weights alone, and a manifest with its score.",
    )
    command_parser.add_argument(
        "run",
        type=Path,
        help="checkpoint; or folder of a run or of a study's cell, whose last checkpoint is taken",
    )
    command_parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help=f"result of spiky evaluate for this checkpoint; default: {EVALUATION} beside it or in the cell's folder",
    )
    command_parser.add_argument(
        "--rl_library",
        choices=list_learners(),
        default=DEFAULT_LEARNER,
        help="library that trained the policy",
    )
    command_parser.add_argument(
        "--replace", action="store_true", help="overwrite the policy of this task and agent"
    )
    return command_parser


def publish(argv: list[str]) -> int:
    """Write the two files of a policy and print the manifest's."""
    args = build_parser().parse(argv)
    common.announce(f"publishing the policy of {args.run}")
    checkpoint = find_last_checkpoint(args.run)
    evaluation = args.evaluation or find_evaluation(args, checkpoint)

    from spiky_rl.run.publish import publish_policy

    cell = find_cell(checkpoint)
    study = None if cell is None else cell.parents[1].name  # STUDY/cells/CELL
    policy, path = publish_policy(checkpoint, evaluation, study, args.rl_library, args.replace)
    print(policy.summary)
    print(path)
    return 0


def find_last_checkpoint(run: Path) -> Path:
    """Return the file ``run``, or the last checkpoint in or below the folder ``run``, which holds one run or is a cell's folder.

    Raises UserError if the folder has no checkpoint, or several runs.
    """
    from spiky_rl.experiments.run.cells import CELL

    if run.is_file():
        return run
    folders = {path.parent for path in run.rglob("model_*.pt") if is_numbered(path)}
    last_checkpoints = [list_checkpoints(folder)[-1] for folder in sorted(folders)]
    if not last_checkpoints:
        raise UserError(
            f"run: {run} has no checkpoint; allowed: a checkpoint, or a folder with the checkpoints of a run"
        )
    # a cell's training may have resumed in another folder
    if len(last_checkpoints) > 1 and not (run / CELL).is_file():
        runs = ", ".join(str(path.parent) for path in last_checkpoints[:3])
        raise UserError(f"run: {run} has {len(last_checkpoints)} runs; allowed: one of them, such as {runs}")
    return max(last_checkpoints, key=read_iteration)


def find_cell(checkpoint: Path) -> Path | None:
    """Return the folder of the study's cell that trained the ``checkpoint``; None for a single training."""
    from spiky_rl.experiments.run.cells import CELL

    return next((folder for folder in checkpoint.absolute().parents if (folder / CELL).is_file()), None)


def find_evaluation(args: argparse.Namespace, checkpoint: Path) -> Path:
    """Return the evaluation beside a checkpoint, or in the folder that the user named, or in that of the checkpoint's cell.

    Raises UserError with the command that makes one.
    """
    for folder in (checkpoint.parent, args.run, find_cell(checkpoint) or args.run):
        if (folder / EVALUATION).is_file():
            return folder / EVALUATION
    evaluate = f"{common.format_program('evaluate')} --task TASK --agent AGENT --checkpoint {checkpoint} --conditions nominal"
    raise UserError(
        f"--evaluation: {checkpoint} has none; make one, with the training's overrides of the environment: {evaluate}"
    )
