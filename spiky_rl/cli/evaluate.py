"""``spiky evaluate``: evaluate a trained policy, undisturbed and under conditions, in one simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import CHECKPOINT_FLAGS, parse_settings
from spiky_rl.cli.tables import MEASURE_TITLES, print_table
from spiky_rl.config import files, registry
from spiky_rl.hosts import find_host, get_host, list_hosts
from spiky_rl.learners.common.checkpoint_names import require_checkpoint
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import make_plan, merge_agent_without_simulator
from spiky_rl.run.run_plan import RANDOM, EvaluateOptions, RunPlan, RunRequest


def build_parser() -> common.Parser:
    """Build the parser of the command, with the names of the conditions in its help."""
    about = "Evaluate a trained policy, undisturbed and under test conditions."
    conditions = {name: get_host(name).list_conditions() for name in list_hosts()}
    epilog = "; ".join(
        f"conditions of {host}: {', '.join(sets['conditions'])}; all: {', '.join(sets['all'])}"
        for host, sets in conditions.items()
    )
    # an evaluation has one environment per episode, and records no videos
    without = (*CHECKPOINT_FLAGS["without"], "num_envs", "video", "video_length")
    flags = {**CHECKPOINT_FLAGS, "without": without, "epilog": epilog}
    return common.Parser("evaluate", about, RunRequest, EvaluateOptions, **flags)


def evaluate(argv: list[str]) -> int:
    """Evaluate a policy; all checks run before a simulator starts."""
    args = build_parser().parse(argv)
    request, options = parse_settings(RunRequest, args), parse_settings(EvaluateOptions, args)
    common.announce(f"evaluating {request.agent} on {request.task}")
    return run_evaluation(resolve_pretrained(request), options)


def run_evaluation(request: RunRequest, options: EvaluateOptions) -> int:
    """Evaluate a policy, write the result and print it; return the exit code."""
    options.check_request(request)
    if request.checkpoint not in (None, RANDOM):
        require_checkpoint(request.checkpoint)  # before the parser of conditions, which imports torch
    bits = options.quantize
    target = None if bits is None else registry.configure("targets", f"c_{bits}", "--quantize").build()
    if target is not None and (early_values := merge_agent_without_simulator(request)) is not None:
        target.check_network(early_values)

    find_host(request.task).parse_conditions(options.conditions)  # raises if a condition is unknown
    plan = make_plan(request)
    if target is not None:
        target.check_network(plan.spec.to_dict())

    from spiky_rl.deploy import _export
    from spiky_rl.run import evaluate as run_evaluate

    evaluation_plan = run_evaluate.plan_evaluation(
        plan, options.conditions, options.episodes, options.quantize_flag
    )
    out = options.get_result_path(evaluation_plan.checkpoint)
    files.require_file("--out", out)
    quantize = target and (lambda policy, env: _export.quantize_policy(policy, env, target, ProgressBar))
    result = run_evaluate.evaluate(evaluation_plan, quantize, ProgressBar)
    files.write_json(out, {**result, "quantize": bits})
    print_result(result, plan)
    print(out)
    return 0


def print_result(result: Mapping[str, Any], plan: RunPlan) -> None:
    """Print the conditions of a result; of a plastic policy also those with weights that change."""
    measure = plan.task_spec.measure if plan.task_spec else ""
    for title, conditions in (("", result["conditions"]), ("changing as it acts:", result["adapting"])):
        if conditions is not None:
            print(title, end="\n" if title else "")
            print_conditions(conditions, measure, plan.spec.network is not None)
            print_recovery(conditions)


def print_conditions(conditions: Mapping[str, Mapping[str, Any]], measure: str, is_spiking: bool) -> None:
    """Print a line per condition; an ANN (not ``is_spiking``) and random actions have no firing rate."""
    nominal = conditions["nominal"]
    measures = [measure] if measure in nominal["measures"] else []
    measure_titles = [MEASURE_TITLES[name] for name in measures]
    titles = ["return", "share", "steps", *measure_titles, "firing\nrate", "effective\nops/step"]
    rows = []
    for name, results in conditions.items():
        cells = [name, f"{results['mean_return']:.2f} ± {results['std_return']:.2f}"]
        # a share of a negative return would rise as the return falls
        share = (
            f"{results['mean_return'] / nominal['mean_return']:.0%}" if nominal["mean_return"] > 0.0 else "-"
        )
        cells += [share, f"{results['mean_length']:,.0f}"]
        values = results["measures"]
        cells += [f"{values[key]:.2f}" if key in values else "-" for key in measures]
        rate, operations = results["firing_rate"], results["operations"]
        cells.append(f"{rate:.1%}" if is_spiking and rate is not None else "-")
        cells.append("-" if operations is None else f"{operations:,.0f}")
        rows.append(cells)
    print_table(["condition", *titles], rows, padding=(0, 0, 0, 0))


def print_recovery(conditions: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for nominal and for every condition with damage in mid-episode; nothing if no condition does damage."""
    recoveries = {
        name: results["recovery"] for name, results in conditions.items() if results.get("recovery")
    }
    if set(recoveries) <= {"nominal"}:
        return
    rows = []
    for name, row in recoveries.items():
        share = "-" if row["share"] is None else f"{row['share']:.0%}"
        rows.append([name, str(row["episodes"]), f"{row['before']:.4f}", f"{row['after']:.4f}", share])
    titles = ["reward of a control step", "episodes", "before", "last third", "share"]
    print_table(titles, rows, padding=(0, 0, 0, 1))
