"""A step of a study's cell, from the specification in its folder: ``python -m spiky_rl.cli.cell train|evaluate FOLDER``.

`spiky_rl.experiments.run.cell_worker` runs it in a process of its own; by hand, a cell is reproduced by the commands of its result.
"""

from __future__ import annotations

from pathlib import Path

from spiky_rl.cli import common, evaluate, train
from spiky_rl.experiments.run import cells, steps
from spiky_rl.run.options import EvaluateOptions


def parser() -> common.Parser:
    """The command line."""
    made = common.Parser("cell", "Train or evaluate a study's cell.")
    made.add_argument("step", choices=["train", "evaluate"])
    made.add_argument("folder", type=Path, help="the cell's, with its cell.json")
    made.add_argument("--checkpoint", help="to go on from, with train")
    made.add_argument("--distributed", action="store_true", help="one of several processes, of torchrun")
    return made


def run_step(argv: list[str]) -> int:
    """Train or evaluate as the cell's specification says."""
    args = parser().parse(argv)
    if args.step == "evaluate":
        asked, episodes, conditions, out = steps.make_evaluation_request(args.folder)
        return evaluate.run_evaluation(
            asked, EvaluateOptions(episodes=episodes, conditions=conditions, out=out)
        )
    if args.distributed:
        cells.share_lock(args.folder)
    return train.run_training(*steps.make_training_request(args.folder, args.checkpoint, args.distributed))


if __name__ == "__main__":
    raise SystemExit(common.run(run_step))
