"""``spiky play``: run a trained policy, report its episodes, record a video, export it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import CHECKPOINT_FLAGS, parse_settings
from spiky_rl.cli.tables import MEASURE_TITLES, print_table
from spiky_rl.config.progress import ProgressFactory, format_count
from spiky_rl.deploy._targets import check_expressible, make_targets
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import make_plan, merge_agent_without_simulator
from spiky_rl.run.run_plan import PlayOptions, RunRequest

if TYPE_CHECKING:
    from spiky_rl.metrics.energy import EnergyRow

EXPORT_TARGETS = ("torchscript", "onnx")
"""Targets of ``--export``; ``spiky export`` has all targets."""
MAX_PRINTED_EPISODES = 50
"""Maximum number of printed episodes."""


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    about = "Run a trained policy and report its episodes; optionally watch it, record a video or export it."
    return common.Parser("play", about, RunRequest, PlayOptions, **CHECKPOINT_FLAGS)


def play(argv: list[str]) -> int:
    """Run a policy; all checks run before a simulator starts."""
    args = build_parser().parse(argv)
    request, options = parse_settings(RunRequest, args), parse_settings(PlayOptions, args)
    common.announce(f"playing {request.agent} on {request.task}")
    return run_play(resolve_pretrained(request), options)


def run_play(request: RunRequest, options: PlayOptions, progress: ProgressFactory = ProgressBar) -> int:
    """Run a policy and print its episodes and the files; return the exit code. ``progress`` opens the progress display."""
    options.check_request(request)
    targets = make_targets(EXPORT_TARGETS) if options.export else {}
    # early, with the values that need no simulator; later again, with the merged agent
    if early_values := merge_agent_without_simulator(request):
        check_expressible(targets.values(), early_values)
    plan = make_plan(request)
    check_expressible(targets.values(), plan.spec.to_dict())

    from spiky_rl.deploy import _export
    from spiky_rl.metrics.energy import tabulate_energies
    from spiky_rl.run.play import PlayResult, play_policy

    def export(policy: Any, env: Any, folder: Path) -> None:
        _export.write_and_verify(policy, env, folder, targets, ProgressBar)

    def report(playback: PlayResult) -> None:
        is_spiking = plan.spec.network is not None
        measure = plan.task_spec.measure if plan.task_spec else ""
        print_episodes(playback.rows, playback.means, measure, is_spiking)
        if playback.cost is not None:
            ann_operations = playback.ann_operations if is_spiking else 0.0  # an ANN has no equal-size ANN
            print_energies(tabulate_energies(playback.cost, ann_operations))
        sys.stdout.flush()  # video and export follow: slow, with progress on stderr

    for path in play_policy(plan, options, export, progress, report):
        print(path)
    return 0


def print_energies(energies: Sequence[EnergyRow]) -> None:
    """Print a line per energy model, with columns for the equal-size ANN if there is one."""
    titles = ["nJ per action", "policy", "equal-size\nANN,\nproducts", "equal-size\nANN,\nskips zeros"]
    has_value = [any(row[i] is not None for row in energies) for i in range(len(titles))]
    rows = [[row[0], *("-" if value is None else f"{value:,.1f}" for value in row[1:])] for row in energies]
    print_table(
        list(compress(titles, has_value)),
        [list(compress(row, has_value)) for row in rows],
        padding=(0, 0, 0, 0),
    )


def print_episodes(
    rows: Sequence[Mapping[str, float]], means: Mapping[str, float], measure: str, is_spiking: bool
) -> None:
    """Print the episodes and their mean, with the ``measure`` of the task if it has one; an ANN has no firing rate."""
    titles = {
        "return": "return",
        "length": "steps",
        **({measure: MEASURE_TITLES[measure]} if measure in means else {}),
        "firing_rate": "firing rate",
        "operations": "effective ops/step",
    }

    def format_cell(name: str, numbers: Mapping[str, float]) -> str:
        if name not in numbers:
            return "-"
        value = numbers[name]
        if name == "firing_rate":
            return f"{value:.1%}" if is_spiking else "-"
        return f"{value:,.0f}" if name in ("length", "operations") else f"{value:.2f}"

    print_table(
        ["episode", *titles.values()],
        [
            [str(int(row["episode"])), *(format_cell(name, row) for name in titles)]
            for row in rows[:MAX_PRINTED_EPISODES]
        ],
        ["mean", *(format_cell(name, means) for name in titles)],
    )
    if len(rows) > MAX_PRINTED_EPISODES:
        print(f"({format_count(len(rows) - MAX_PRINTED_EPISODES, 'more episode')} in playback.json)")
