"""``--visualizer`` of train.py and play.py, as Isaac Lab's own commands have it."""

from __future__ import annotations

import argparse
from typing import Any

from spiky_rl.config.arguments import positive
from spiky_rl.hosts.isaaclab.live import names

VISIBLE = 16
"""Environments that are shown: a page of thousands is slow to send and to draw."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--visualizer",
        "--viz",
        type=names.parse,
        metavar="NAMES",
        help="watch it live: viser or rerun in a browser, newton_gl in a window; several with commas, or none",
    )
    parser.add_argument(
        "--max_visible_envs", type=positive, default=VISIBLE, help="environments that --visualizer shows"
    )


def require(args: argparse.Namespace) -> None:
    """Raise UserError for a visualizer that cannot run here."""
    names.require(args.visualizer or [], args.video)


def asked(args: argparse.Namespace, rank: int = 0) -> dict[str, Any]:
    """What `simulation` is told of it; of the processes of a distributed run, the first one is watched."""
    return {"visualizers": args.visualizer, "visible": args.max_visible_envs} if rank == 0 else {}


def watched(args: argparse.Namespace, env: Any) -> Any:
    """The environment, in a `spiky_rl.cli.watched.Watched` where anybody watches."""
    if not args.visualizer and not getattr(args, "real_time", False):
        return env
    from spiky_rl.cli.watched import Watched

    return Watched(env, getattr(args, "real_time", False))
