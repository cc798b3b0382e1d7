"""``spiky demo``: show a trained robot and its spikes in a browser, or record a film without one.

The demonstration plays a policy of ``policies/``: Isaac-Ant, or InvertedPendulum-v5 where Isaac Lab is not installed. It shows a page if
there is a browser or an ssh session, else it records a film.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.display import ProgressBar
from spiky_rl.cli.play import run_play
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import no_progress
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import LIVE_VIEW, Host
from spiky_rl.run.policies import PRETRAINED, list_policies, resolve_pretrained
from spiky_rl.run.run_plan import PlayOptions, RunRequest

PAGE, FILM = "page", "film"
TASKS = ("Isaac-Ant", "InvertedPendulum-v5")
"""Tasks of the demonstration, best first; the first one whose host is installed is shown."""
ROBOTS = 4
"""Robots on the page."""
FILM_STEPS = 200
"""Control steps of the film: some seconds of it, recorded in half a minute without a GPU."""
EPISODES = 100_000
"""Episodes on the page: until the user stops."""
VIEWER = "viser"
VIEWS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    PAGE: (
        "The page opens within a minute; Ctrl-C ends it.",
        {"num_envs": ROBOTS},
        {"episodes": EPISODES, "visualizer": VIEWER, "max_visible_envs": ROBOTS, "real_time": True},
    ),
    FILM: (
        "Recording a film of a trained robot; this takes about a minute.",
        {"video": True, "video_length": FILM_STEPS},
        {"episodes": 1},
    ),
}
"""View -> (message at its start, its fields of `RunRequest`, its fields of `PlayOptions`)."""


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    command_parser = common.Parser(
        "demo", "Show a trained robot and its spikes; nothing is trained.", verbose=True
    )
    command_parser.add_argument(
        "--view",
        choices=(PAGE, FILM),
        help="page: a web page on this machine; film: an MP4 file; default: a page if there is a browser",
    )
    command_parser.add_argument("--task", help=f"task of a trained policy; default: {' or '.join(TASKS)}")
    command_parser.add_argument("--agent", default="lif_ppo", help="agent of a trained policy")
    command_parser.add_argument("--log_root", type=Path, default=Path("logs"), help="folder of the film")
    return command_parser


def demo(argv: list[str]) -> int:
    """Show a trained policy on a page or in a film."""
    args = build_parser().parse(argv)
    common.announce(f"showing a trained {args.agent}{f' on {args.task}' if args.task else ''}")
    task = args.task or find_task(args.agent)
    host = find_host(task)
    view = choose_view(host, args.view)
    text, view_request, view_options = VIEWS[view]
    common_request = {"task": task, "agent": args.agent, "checkpoint": PRETRAINED, "log_root": args.log_root}
    request = resolve_pretrained(RunRequest.check("", {**common_request, "device": "cpu", **view_request}))
    print(text, flush=True)
    if view == FILM and args.view is None and can_show_page(host):
        print(f"No browser was found; --view {PAGE} opens the page for another machine.", flush=True)
    logging.getLogger("spiky_rl").addHandler(_BrowserOpener())
    options = PlayOptions.check("", view_options)
    return run_play(request, options, no_progress if view == PAGE else ProgressBar)


def choose_view(host: Host, requested: str | None) -> str:
    """Return the ``requested`` view, else the page if it can be shown and there is a browser, else the film.

    Raises UserError if the page is requested and cannot be shown.
    """
    can_show = can_show_page(host)
    if requested == PAGE and not can_show:
        host.require_ability(LIVE_VIEW, f"--view {PAGE}")
        raise UserError(
            f"--view {PAGE}: {VIEWER} is not installed; install it with: pip install {VIEWER}, or use --view {FILM}"
        )
    return requested or (PAGE if can_show and has_browser() else FILM)


def can_show_page(host: Host) -> bool:
    """Return whether the ``host`` has a live view and its viewer is installed."""
    return LIVE_VIEW in host.abilities and importlib.util.find_spec(VIEWER) is not None


def find_task(agent: str) -> str:
    """Return the first of `TASKS` whose host is installed and that has a policy of ``agent``. Raises UserError if there is none."""
    shipped = {policy.task for policy in list_policies() if policy.agent == agent}
    reasons: list[str] = []
    for task in TASKS:
        if task not in shipped:
            continue
        try:
            find_host(task).require_installed()
        except UserError as error:  # another host may be installed
            reasons.append(str(error))
        else:
            return task
    if reasons:
        raise UserError("; ".join(reasons))
    raise UserError(
        f"--agent {agent}: no trained policy to show; list them with: {common.format_program('show')} policies"
    )


def has_browser() -> bool:
    """Return whether a page can be opened: in a browser of this desktop, or from the machine of an ssh session."""
    if os.environ.get("SSH_CONNECTION"):
        return True
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()  # raises if there is no browser
    except webbrowser.Error:
        return False
    return True


class _BrowserOpener(logging.Handler):
    """Handler that opens the page of the live view once its address is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Open the page, or name the tunnel in an ssh session."""
        words, _, url = record.getMessage().partition(": ")
        if words != LIVE_VIEW:
            return
        if os.environ.get("SSH_CONNECTION"):
            port = url.rpartition(":")[2].rstrip("/")
            print(
                f"On your own machine: ssh -L {port}:localhost:{port} THIS_MACHINE, then open {url}",
                flush=True,
            )
        else:
            webbrowser.open(url)
