"""``spiky tune``: tune agents with equally many trials each; write a file of tuned values and a report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.cells import print_missing_lines
from spiky_rl.cli.flags import get_given_values, parse_settings
from spiky_rl.cli.report import require_report
from spiky_rl.config import files
from spiky_rl.config.errors import require_module
from spiky_rl.config.progress import format_count
from spiky_rl.config.tuned_values import FILE_NAME as TUNED
from spiky_rl.config.tuned_values import find_shortfall
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run import tuning, tuning_plan
from spiky_rl.experiments.run.engines.base import WorkOrder
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from spiky_rl.experiments.run.tuning import AgentTask, TuningDesign, TuningEnvironment
from spiky_rl.experiments.run.tuning_plan import TuneOptions
from spiky_rl.run.command import handle_stop_signals
from spiky_rl.run.run_plan import split_overrides

DEFAULT_SEEDS = "90000,90001"
"""Default seeds of trials, far from the usual seeds of studies."""
log = logging.getLogger(__name__)

EXCLUDED_KEYS = ("question", "conditions", "baseline", "tuning")
"""Keys of a study that tune.py has no flags for."""


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    about = (
        "Tune agents on tasks with equally many trials each. Run the same command again to resume, or with more trials to add"
        " them."
    )
    epilog = "A trial gets a third of --budget. Studies that use the tuning need other --seeds."
    return common.Parser(
        "tune",
        about,
        TuneOptions,
        Study,
        ExecutionOptions,
        epilog=epilog,
        verbose=True,
        without=EXCLUDED_KEYS,
        seeds=DEFAULT_SEEDS,
    )


def tune(argv: list[str]) -> int:
    """Run the remaining trials; write the tuned values and the report."""
    args = build_parser().parse(argv)
    require_module("optuna", "experiments")
    split_overrides(args.overrides)  # raises if a text is not an override
    options = parse_settings(TuneOptions, args)
    common.announce(f"tuning {args.agents} on {args.tasks}, {format_count(options.trials, 'trial')} each")
    design = tuning_plan.make_tuning_design(get_given_values(Study, args), options)
    out = (options.out or tuning_plan.get_default_folder(design)).absolute()
    files.require_writable("--out", out)
    require_report(out)
    design = tuning.load_or_extend_tuning(out, design)
    place = parse_settings(ExecutionOptions, args)
    engine, gpus = place.open_engine(design.study.library)
    place, robots = place.resolve_assets(design.study.tasks[0])
    check = partial(tuning_plan.check_tuning, place=place, robots=robots)
    checked = check(design)
    print_plan(design, checked.pairs, out)
    print_missing_lines(out, design.study, "tuning")
    if engine is None:
        return 0

    from spiky_rl.experiments.analysis.tuning_outcome import write_tuned
    from spiky_rl.experiments.report.tuning_page import write_tuning_page
    from spiky_rl.experiments.run import tuning_search

    site = TuningEnvironment(out, partial(AgentResolver, place=place), place.cell_resources)
    search = tuning_search.start_search(design, checked, check, site, place.parallel, options.storage)
    with handle_stop_signals("stopping; running trials keep a checkpoint") as stop:
        engine.run(
            WorkOrder(
                cells=(),
                out=out,
                parallel=place.parallel,
                on_change=lambda states: None,
                stop_requested=stop,
                gpus=gpus,
                more_cells=search.take_next_cells,
                processes=place.distributed,
            )
        )
        interrupted = stop()
    for path in write_tuning_page(search, checked.facts):
        print(path)
    unfinished = "not all trials have ended; run the same command again to resume"
    print(out / TUNED if write_tuned(search) else unfinished)
    return stop.exit_code if interrupted else int(bool(search.broken))


def print_plan(design: TuningDesign, pairs: Sequence[AgentTask], out: Path) -> None:
    """Print the plan of a tuning."""
    agents, tasks, seeds = design.study.agents, design.study.tasks, ", ".join(map(str, design.study.seeds))
    counts = [format_count(len(agents), "agent"), format_count(len(tasks), "task")]
    print(f"{' x '.join([*counts, format_count(design.trials, 'trial')])}, seeds {seeds}")
    for pair in {pair.task_label: pair for pair in pairs}.values():
        print(f"{pair.task_label}: {pair.budget.text} per trial")
    print(f"space {design.space.name}: {len(design.space.shared)} shared dimensions; each agent's own:")
    for pair in {pair.agent_name: pair for pair in pairs}.values():
        own_dimensions = pair.dimensions[len(design.space.shared) :]
        keys = ", ".join(d.key.removeprefix("agent.") for d in own_dimensions)
        print(f"  {pair.agent_name}: {keys or 'none'}")
    print(f"folder: {out}\n")
    if shortfall := find_shortfall(design.trials, len(design.study.seeds)):
        log.warning("--trials, --seeds: %s; with so few, chance decides as much as merit", shortfall)
