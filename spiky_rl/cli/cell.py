"""Training or evaluation of a study's cell (one agent, task, variant and seed): ``python -m spiky_rl.cli.cell train|evaluate FOLDER``.

`spiky_rl.experiments.run.cell_worker` starts this command in a process of its own. To reproduce a cell by hand, use the
commands in its result.
"""

from __future__ import annotations

from pathlib import Path

from spiky_rl.cli import common, evaluate, train
from spiky_rl.experiments.run import cell_requests, cells


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    command_parser = common.Parser("cell", "Train or evaluate a cell of a study.")
    command_parser.add_argument("step", choices=["train", "evaluate"])
    command_parser.add_argument("folder", type=Path, help="folder of the cell, with its cell.json")
    command_parser.add_argument("--checkpoint", help="with train: checkpoint to resume from")
    command_parser.add_argument("--teacher", help="with train: checkpoint of its teacher")
    command_parser.add_argument(
        "--distributed", action="store_true", help="this is one of several processes of torchrun"
    )
    return command_parser


def run_step(argv: list[str]) -> int:
    """Train or evaluate the cell by its specification."""
    args = build_parser().parse(argv)
    if args.step == "evaluate":
        return evaluate.run_evaluation(*cell_requests.make_evaluation_request(args.folder))
    if args.distributed:
        cells.share_lock(args.folder)
    request, options = cell_requests.make_training_request(
        args.folder, args.checkpoint, args.teacher, args.distributed
    )
    return train.run_training(request, options)


if __name__ == "__main__":
    raise SystemExit(common.run(run_step))
