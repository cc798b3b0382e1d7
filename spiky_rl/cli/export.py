"""``spiky export``: export a trained policy for other programs and chips, and verify the files against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.flags import CHECKPOINT_FLAGS, parse_settings
from spiky_rl.deploy._targets import ExportOptions, require_action_mapping
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import RunRequest


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    about = "Export a trained policy for other programs and chips, and verify the files against the policy."
    # an export records no videos
    flags = {**CHECKPOINT_FLAGS, "without": (*CHECKPOINT_FLAGS["without"], "video", "video_length")}
    return common.Parser("export", about, RunRequest, ExportOptions, num_envs=1, **flags)


def export(argv: list[str]) -> int:
    """Export a policy."""
    args = build_parser().parse(argv)
    request, options = parse_settings(RunRequest, args), parse_settings(ExportOptions, args)
    common.announce(f"exporting {request.agent} on {request.task}")
    request = resolve_pretrained(request)
    targets = options.check_request(request)
    plan = make_plan(request)
    if plan.host_task.has_action_bounds and not options.raw_actions:
        require_action_mapping(targets)

    from spiky_rl.deploy import _export

    written = _export.run_export(plan, options, targets, ProgressBar)
    for path in written:
        print(path)
    if options.report is not None:
        report_footprints(options.report, [path for path in written if path.suffix == ".c"])
    return 0


def report_footprints(chip: str, files: Sequence[Path]) -> None:
    """Measure every C file on the ``chip``: print its bytes of flash, state and stack, and write them into its header."""
    from spiky_rl.deploy import _footprint
    from spiky_rl.deploy._c_text import add_note

    print(f"{'bytes on a ' + chip:<40}{'flash':>10}{'state':>10}{'stack':>10}")
    for path in files:
        footprint = _footprint.measure_footprint(path, chip)
        add_note(
            path,
            f"On a {chip}, compiled at {_footprint.OPTIMIZATION_FLAGS[0]}: {footprint.flash:,} bytes of flash, the called parts of the C library"
            f" included, and at most {footprint.stack:,} bytes of stack.",
        )
        label = "/".join(path.parts[-2:])
        print(f"{label:<40}{footprint.flash:>10,}{footprint.state:>10,}{footprint.stack:>10,}")
