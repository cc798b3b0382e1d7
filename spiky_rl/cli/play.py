"""``play.py``: run a trained policy, measure its episodes, film it, export it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from spiky_rl.cli import common
from spiky_rl.cli.common import log
from spiky_rl.cli.display import Bar
from spiky_rl.cli.flags import add_flags, picked
from spiky_rl.cli.tables import print_table
from spiky_rl.config import files
from spiky_rl.config.plan import Request
from spiky_rl.hosts.run.asked import Playing
from spiky_rl.hosts.run.prepare import prepare

EXPORTED = ("torchscript", "onnx")
"""What ``--export`` writes; all targets: ``export.py``."""
MEASURES = {"distance": "distance [m]", "upright": "upright [s]", "velocity_error": "velocity error [m/s]"}
"""Titles of what a task is about besides its reward."""
LISTED = 50
"""Episodes that are printed, at most."""


def parser() -> common.Parser:
    """The command line."""
    made = common.Parser("play.py", "Play a trained policy.", verbose=True)
    add_flags(made, Request, without=("distributed", "max_iterations"), checkpoint="latest")
    add_flags(made, Playing)
    return made


def play(argv: list[str]) -> int:
    """Play as the arguments say."""
    args = parser().read(argv)
    asked, options = picked(Request, args), picked(Playing, args)
    options.require(asked)
    plan = prepare(asked)
    if asked.num_envs is None:  # as many environments as episodes, unless told otherwise
        plan.num_envs = min(plan.num_envs, options.episodes)

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
    live, films = Live(options.visualizer, options.max_visible_envs, options.real_time), []
    with opened(plan, checkpoint, live) as (env, runner, policy):
        with Bar("playing", f"{options.episodes} episodes") as shown:
            playback = playing.episodes(env, policy, options.episodes, Measures(env), shown)
        # before films and exports, which may fail
        files.write_json(path, playback.as_dict(plan, checkpoint))
        if asked.video:
            from spiky_rl.hosts.run.film import film

            to = path.parent / "videos" / "play" / f"{checkpoint.stem}.mp4"
            films = film(env, policy, to, asked.video_length, Bar)
        if options.export:
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


main = partial(common.run, play)
"""Entry point of ``scripts/play.py``."""
