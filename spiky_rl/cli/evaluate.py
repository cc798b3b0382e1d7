"""``evaluate.py``: measure the final policy, undisturbed and under conditions, in one simulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.display import Bar
from spiky_rl.cli.tables import print_table
from spiky_rl.config import files
from spiky_rl.config.arguments import positive
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import RANDOM, Request
from spiky_rl.hosts.run.prepare import prepare

MEASURES = {"distance": "went [m]", "upright": "up [s]", "velocity_error": "off [m/s]"}
"""Titles of what a task is about besides its reward."""


def parser() -> common.Parser:
    """The command line."""
    from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, ROBUSTNESS

    found = common.Parser("evaluate.py", "Measure a trained policy, undisturbed and under other conditions.")
    common.add_run_arguments(found)
    found.set_defaults(checkpoint="latest")
    add = found.add_argument
    add("--episodes", type=positive, default=64, help="episodes per condition")
    add(
        "--conditions",
        default="all",
        help=f"comma-separated, of {', '.join(CONDITIONS)}; or all: {', '.join(ROBUSTNESS)}; or stress: all others that task and"
        " agent can have. nominal is always measured",
    )
    add(
        "--quantize",
        choices=["int8"],
        help="measure the network that `export.py --to c-int8` writes: weights of 8 bits, states in integers",
    )
    add(
        "--out",
        type=Path,
        help="result file; default: evaluation.json (with --quantize: evaluation_int8.json) beside the checkpoint",
    )
    return found


def evaluate(argv: list[str]) -> int:
    """Evaluate as the arguments say; everything that can be refused is refused before a simulator starts."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.num_envs is not None:
        raise UserError(
            "--num_envs: there are as many environments as episodes and conditions; use --episodes"
        )
    if args.video:
        raise UserError("--video: evaluate.py films nothing; use play.py")
    return begin(common.request(args), args.episodes, args.conditions, args.out, args.quantize)


def begin(
    asked: Request, episodes: int, conditions: str, out: Path | None, quantize: str | None = None
) -> int:
    """Evaluate, write the result and print it; returns the exit code.

    Args:
        asked: What is evaluated.
        episodes: Per condition.
        conditions: Names with commas, ``all`` or ``stress``.
        out: The result file; None: beside the checkpoint.
        quantize: The integers that the network is measured in, ``int8``; None: as it is.
    """
    from spiky_rl.hosts.isaaclab.conditions import chosen

    flag, target = f"--quantize {quantize}", None
    if quantize is not None and (asked.checkpoint == RANDOM or asked.library != "rsl_rl"):
        what = "--checkpoint random" if asked.checkpoint == RANDOM else f"--rl_library {asked.library}"
        raise UserError(f"{flag}: needs a checkpoint of rsl_rl's, not {what}")
    if asked.checkpoint == RANDOM and out is None:
        raise UserError("--checkpoint random: there is no run folder to write to; use --out FILE")
    if out is not None:
        files.require_file("--out", out)
    chosen(conditions)
    plan = prepare(asked)

    from spiky_rl.deploy import _export
    from spiky_rl.hosts.run import evaluating

    if quantize is not None:
        target = _export.in_integers(quantize, plan.spec.network)
    measured = evaluating.select(plan, conditions, episodes, flag if target else "")
    if out is None and measured.checkpoint is not None:
        file = "evaluation.json" if quantize is None else f"evaluation_{quantize}.json"
        out = measured.checkpoint.parent / file
    assert out is not None
    change = target and (lambda policy, env: _export.quantised(policy, env, target, Bar))
    result = evaluating.evaluate(measured, change, Bar)
    files.write_json(out, {**result, "quantize": quantize})
    measure = plan.task_spec.measure if plan.task_spec else ""
    for title, found in (("", result["conditions"]), ("changing as it acts:", result["adapting"])):
        if found is not None:
            print(title, end="\n" if title else "")
            print_conditions(found, measure)
            print_recovery(found)
    print(out)
    return 0


def print_conditions(conditions: Mapping[str, Mapping[str, Any]], measure: str) -> None:
    """A line per condition."""
    nominal = conditions["nominal"]
    measured = [measure] if measure in nominal["measures"] else []
    titles = ["return", "share", "steps", *(MEASURES[name] for name in measured), "firing", "operations"]
    rows = []
    for name, found in conditions.items():
        cells = [name, f"{found['mean_return']:.2f} ± {found['std_return']:.2f}"]
        # a share of a punishment would rise where the return falls
        share = (
            f"{found['mean_return'] / nominal['mean_return']:.0%}" if nominal["mean_return"] > 0.0 else "-"
        )
        cells += [share, f"{found['mean_length']:,.0f}"]
        cells += [f"{found['measures'][key]:.2f}" for key in measured]
        cells.append(f"{found['firing_rate']:.1%}" if found["firing_rate"] else "-")
        cells.append(f"{found['operations']:,.0f}" if found["operations"] else "-")
        rows.append(cells)
    print_table(["condition", *titles], rows, padding=(0, 0, 0, 0))


def print_recovery(conditions: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for nominal and for everything that happens in mid-episode, if something does."""
    found = {name: results["recovery"] for name, results in conditions.items() if results.get("recovery")}
    if set(found) <= {"nominal"}:
        return
    rows = []
    for name, row in found.items():
        share = "-" if row["share"] is None else f"{row['share']:.0%}"
        rows.append([name, str(row["episodes"]), f"{row['before']:.4f}", f"{row['after']:.4f}", share])
    titles = ["reward of a control step", "episodes", "before", "last third", "share"]
    print_table(titles, rows, padding=(0, 0, 0, 1))


def main() -> int:
    """Entry point of ``scripts/evaluate.py``."""
    return common.run(evaluate)
