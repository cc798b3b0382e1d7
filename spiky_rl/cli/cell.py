"""A step of a study's cell, from the specification in its folder: ``python -m spiky_rl.cli.cell train|evaluate FOLDER``.

`spiky_rl.experiments.run.work` runs it in a process of its own; by hand, a cell is reproduced by the commands of its result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spiky_rl.cli import common, evaluate, train
from spiky_rl.config.spec import complete
from spiky_rl.config.tuned import FILE as TUNED
from spiky_rl.config.budget import parse as parse_budget
from spiky_rl.experiments.design.grid import EVALUATION, Specification
from spiky_rl.experiments.design.study import RANDOM


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(prog="cell", description="Train or evaluate a study's cell.")
    found.add_argument("step", choices=["train", "evaluate"])
    found.add_argument("folder", type=Path, help="the cell's, with its cell.json")
    found.add_argument("--checkpoint", help="to go on from, with train")
    found.add_argument("--distributed", action="store_true", help="one of several processes, of torchrun")
    return found


def step(argv: list[str]) -> int:
    """Train or evaluate as the cell's specification says."""
    asked = parser().parse_args(argv)
    if asked.step == "evaluate":
        return evaluate.begin(evaluation(asked.folder))
    return train.begin(training(asked.folder, asked.checkpoint, asked.distributed))


def training(folder: Path, checkpoint: str | None = None, distributed: bool = False) -> argparse.Namespace:
    """What ``train.py`` is asked for."""
    _, given, shared = read(folder)
    budget = None if given.budget is None else parse_budget(given.budget, "budget")
    more = {"checkpoint": checkpoint, "distributed": distributed, "num_envs": given.num_envs}
    return train.parser().namespace(**shared, **more, seed=given.seed, budget=budget)


def evaluation(folder: Path) -> argparse.Namespace:
    """What ``evaluate.py`` is asked for."""
    own, given, shared = read(folder)
    return evaluate.parser().namespace(
        **shared,
        checkpoint=RANDOM if own["kind"] == RANDOM else "latest",
        seed=given.evaluation_seed,
        episodes=given.episodes,
        conditions=",".join(given.conditions),
        out=folder / EVALUATION,
    )


def read(folder: Path) -> tuple[dict[str, Any], Specification, dict[str, Any]]:
    """A cell's own line, its specification, and what both steps are asked for."""
    own = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    given = Specification(**own["specification"])
    shared = {
        "task": given.task,
        "agent": given.agent,
        "rl_library": given.library,
        "assets": given.assets,
        "device": given.device,
        "tuning": folder.parents[1] / TUNED if given.tuned else None,
        "log_root": folder / "run",
        "overrides": list(given.overrides),
        "spec": complete(Path(given.agent).stem, given.spec, given.origins),
    }
    return own, given, shared


if __name__ == "__main__":
    raise SystemExit(common.run(step))
