"""``play.py``: run a trained policy, measure its episodes, film it, export it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.tables import print_table
from spiky_rl.config import files
from spiky_rl.config.arguments import positive
from spiky_rl.config.options import UserError
from spiky_rl.hosts.isaaclab.live import names
from spiky_rl.hosts.run.prepare import prepare

EXPORTED = ("torchscript", "onnx")
"""What ``--export`` writes; all targets: ``export.py``."""
MEASURES = {"distance": "distance [m]", "upright": "upright [s]", "velocity_error": "velocity error [m/s]"}
"""Titles of what a task is about besides its reward."""
LISTED = 50
"""Episodes that are printed, at most."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser("play.py", "Play a trained policy.")
    common.add_run_arguments(found)
    common.add_live_arguments(found)
    found.set_defaults(checkpoint="latest")
    add = found.add_argument
    # as many environments as episodes, unless told otherwise
    add("--episodes", type=positive, default=10, help="episodes to measure")
    add("--real-time", action="store_true", help="as slow as the world, to be watched with --visualizer")
    add(
        "--export",
        action="store_true",
        help="write TorchScript and ONNX, and prove both equal to the policy (rsl_rl only)",
    )
    return found


def play(argv: list[str]) -> int:
    """Play as the arguments say."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.export and args.library != "rsl_rl":
        raise UserError(f"--export: not available with --rl_library {args.library}, only with rsl_rl")
    names.require(args.visualizer or [], args.video)
    plan = prepare(common.request(args))
    if args.num_envs is None:
        plan.num_envs = min(plan.num_envs, args.episodes)

    from spiky_rl.hosts.isaaclab.measures import Measures
    from spiky_rl.hosts.run import playing
    from spiky_rl.hosts.run.checkpoint import find_checkpoint
    from spiky_rl.hosts.run.simulate import opened
    from spiky_rl.hosts.run.watched import Live
    from spiky_rl.metrics.energy import energy_text, rival_texts

    checkpoint = find_checkpoint(plan)
    path = checkpoint.parent / "playback.json"
    log.info("%s on %s, %d environments, %s", plan.agent, plan.task, plan.num_envs, plan.device)
    log.info("checkpoint: %s", checkpoint)
    log.info("starting the simulator")
    live, films = Live(args.visualizer, args.max_visible_envs, args.real_time), []
    with opened(plan, checkpoint, live) as (env, runner, policy):
        with Bar("playing", f"{args.episodes} episodes") as shown:
            playback = playing.episodes(env, policy, args.episodes, Measures(env), shown)
        # before films and exports, which may fail
        files.write_json(path, playback.as_dict(plan, checkpoint))
        if args.video:
            from spiky_rl.hosts.run.film import film

            to = path.parent / "videos" / "play" / f"{checkpoint.stem}.mp4"
            films = film(env, policy, to, args.video_length, Bar)
        if args.export:
            from spiky_rl.deploy import _export

            targets = _export.targets(EXPORTED)
            _export.export(runner.alg.get_policy(), env, path.parent / "exported", targets, Bar)
    print_episodes(playback.rows, playback.means(), plan.task_spec.measure if plan.task_spec else "")
    if playback.cost is not None:
        ann = playback.ann_operations if policy.network is not None else 0.0
        for text in (energy_text(playback.cost, ann_operations=ann), *rival_texts(playback.cost)):
            print(f"energy per action: {text}")
    for written in (*films, path):
        print(written)
    return 0


def print_episodes(rows: Sequence[Mapping[str, float]], means: Mapping[str, float], measure: str) -> None:
    """The episodes, and their mean; ``measure``: what the task is about, besides the reward."""
    titles = {
        "return": "return",
        "length": "steps",
        **({measure: MEASURES[measure]} if measure in means else {}),
        "firing_rate": "firing rate",
        "operations": "operations per step",
    }

    def cell(name: str, value: float) -> str:
        if name == "firing_rate":
            return f"{value:.1%}" if value else "-"
        return f"{value:,.0f}" if name in ("length", "operations") else f"{value:.2f}"

    print_table(
        ["episode", *titles.values()],
        [[str(int(row["episode"])), *(cell(name, row[name]) for name in titles)] for row in rows[:LISTED]],
        ["mean", *(cell(name, means[name]) for name in titles)],
    )
    if len(rows) > LISTED:
        print(f"({len(rows) - LISTED} more episodes in playback.json)")


def main() -> int:
    """Entry point of ``scripts/play.py``."""
    return common.run(play)
