"""What the commands share: the parser, the arguments of a run, where messages go."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from spiky_rl.cli import running
from spiky_rl.config.arguments import positive, seed_number, up_to
from spiky_rl.config.options import nearest
from spiky_rl.config.plan import LIBRARIES, VISIBLE, Request

log = logging.getLogger("spiky_rl")
run = running.run

MOST_FRAMES = 10_000
"""Longest film, in frames: they are held until it is written, some 10 GB of them."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says what a flag is where it is not given, unless that is nothing, or the flag is a switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Exit code 2 and one line for a bad command line; prefixes of flags are not accepted."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        super().__init__(prog, None, description, epilog, formatter_class=Help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Name the problem, with the nearest flag where one is unknown."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = message.partition("unrecognized arguments: ")[2].split()
        hint = next((nearest(flag, flags) for flag in unknown if flag.startswith("-")), "")
        sys.stderr.write(f"{self.prog}: error: {' '.join(message.splitlines())}{hint}\n")
        raise SystemExit(2)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that runs an environment: a `Request`'s."""
    add = parser.add_argument
    add("--task", required=True, help="gym id (with or without -v0), or a file stem of tasks/")
    add("--agent", default=Request.agent, help="file stem of agents/, or a path to a YAML file")
    add(
        "--tuning",
        type=Path,
        help="tuned values for the agent on the task: what tune.py wrote, or its folder",
    )
    add("--num_envs", type=positive, help="parallel environments; default: what the task says for the device")
    add(
        "--seed",
        type=seed_number,
        help="seed of environment and agent, -1: a random one; default: Isaac Lab's, 42",
    )
    add("--device", help="cpu, cuda or cuda:N, for environment and agent; default: the GPU if there is one")
    add("--checkpoint", help="a path, or latest or best of the newest run of this task and agent")
    add("--experiment_name", help="folder below logs/<library>; default: Isaac Lab's for the task")
    add_library(parser, "host library")
    add_assets(parser, "where robots come from")
    add("--log_root", type=Path, default=Request.log_root, help="folder of all runs")
    add("--video", action="store_true", help="record the robot, rendered without a display")
    add(
        "--video_length", type=up_to(MOST_FRAMES), default=Request.video_length, help="control steps per clip"
    )
    add("--deterministic", action="store_true", help="deterministic kernels where there is a choice")
    add_verbose(parser)
    add(
        "overrides", nargs="*", metavar="key=value", help="agent.x.y=v, env.x.y=v, physics=NAME, presets=NAME"
    )


def add_library(parser: argparse.ArgumentParser, text: str, default: str | None = Request.library) -> None:
    """Which host runs the agent."""
    parser.add_argument("--rl_library", dest="library", default=default, choices=LIBRARIES, help=text)


def add_assets(parser: argparse.ArgumentParser, text: str) -> None:
    """Where robots come from."""
    parser.add_argument("--assets", default=Request.assets, choices=["auto", "local", "nucleus"], help=text)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Whether libraries talk."""
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own messages")


def add_live_arguments(parser: argparse.ArgumentParser) -> None:
    """How a run is watched, as Isaac Lab's own commands have it."""
    from spiky_rl.hosts.isaaclab.live import names

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


def picked[Asked](kind: type[Asked], args: argparse.Namespace) -> Asked:
    """The arguments that a dataclass has fields for, by their names; its other fields have their defaults."""
    keys = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{key: getattr(args, key) for key in keys if hasattr(args, key)})


def request(args: argparse.Namespace) -> Request:
    """What the arguments of `add_run_arguments` ask for."""
    return picked(Request, args)


def setup_logging(verbose: bool) -> None:
    """Our messages on the terminal; the libraries' only when asked for."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
