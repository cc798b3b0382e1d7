"""A step of a study's cell, from the specification in its folder: ``python -m spiky_rl.cli.cell train|evaluate FOLDER``.

`spiky_rl.experiments.run.work` runs it in a process of its own; by hand, a cell is reproduced by the commands of its result.
"""

from __future__ import annotations

from pathlib import Path

from spiky_rl.cli import common, evaluate, train
from spiky_rl.experiments.run import steps


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser("cell", "Train or evaluate a study's cell.")
    found.add_argument("step", choices=["train", "evaluate"])
    found.add_argument("folder", type=Path, help="the cell's, with its cell.json")
    found.add_argument("--checkpoint", help="to go on from, with train")
    found.add_argument("--distributed", action="store_true", help="one of several processes, of torchrun")
    return found


def step(argv: list[str]) -> int:
    """Train or evaluate as the cell's specification says."""
    args = parser().parse_args(argv)
    common.setup_logging(verbose=False)
    if args.step == "evaluate":
        return evaluate.begin(*steps.evaluation(args.folder))
    return train.begin(*steps.training(args.folder, args.checkpoint, args.distributed))


if __name__ == "__main__":
    raise SystemExit(common.run(step))
