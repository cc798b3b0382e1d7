"""Training or evaluation of one cell of a study: ``python -m spiky_rl.cli.cell train|evaluate FOLDER``.

`spiky_rl.experiments.run.cell_worker` starts this command in a process of its own. To reproduce a cell by hand, use the
commands in its result.
"""

from __future__ import annotations

from pathlib import Path

from spiky_rl.cli import common, evaluate, train
from spiky_rl.experiments.run import cells, steps
from spiky_rl.run.options import EvaluateOptions


def parser() -> common.Parser:
    """Build the parser of the command."""
    made = common.Parser("cell", "Train or evaluate a cell of a study.")
    made.add_argument("step", choices=["train", "evaluate"])
    made.add_argument("folder", type=Path, help="folder of the cell, with its cell.json")
    made.add_argument("--checkpoint", help="with train: checkpoint to resume from")
    made.add_argument("--teacher", help="with train: checkpoint of its teacher")
    made.add_argument(
        "--distributed", action="store_true", help="this is one of several processes of torchrun"
    )
    return made


def run_step(argv: list[str]) -> int:
    """Train or evaluate the cell by its specification."""
    args = parser().parse(argv)
    if args.step == "evaluate":
        asked, episodes, conditions, out = steps.make_evaluation_request(args.folder)
        return evaluate.run_evaluation(
            asked, EvaluateOptions(episodes=episodes, conditions=conditions, out=out)
        )
    if args.distributed:
        cells.share_lock(args.folder)
    request = steps.make_training_request(args.folder, args.checkpoint, args.teacher, args.distributed)
    return train.run_training(*request)


if __name__ == "__main__":
    raise SystemExit(common.run(run_step))
