"""Argument parser and logging of all commands."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from spiky_rl.cli.flags import REPLACEMENTS, add_flags, translate_flags
from spiky_rl.config.options import Settings, suggest_name
from spiky_rl.run import command

log = logging.getLogger("spiky_rl")
run = command.run_command


def format_program(name: str) -> str:
    """Return the shell words that call the command ``name`` in the same way as the present command."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"python -m spiky_rl.cli {name}"
    if called.suffix == ".py" and called.with_name(f"{name}.py").is_file():
        return f"python {shlex.quote(str(called.with_name(f'{name}.py')))}"
    return f"spiky {name}"


def name_command(name: str) -> str:
    """Return how usage lines and errors call the command ``name``: as a script where its script was started, else by ``spiky``."""
    verb, _, further = name.partition(" ")
    script = f"{verb}.py"
    return f"{script} {further}".rstrip() if Path(sys.argv[0]).name == script else f"spiky {name}"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each flag, unless the default is None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser that ends with exit code 2 and one line for a bad command line; it accepts no prefixes of flags."""

    def __init__(
        self,
        command_name: str,
        description: str | None,
        *settings: type[Settings],
        verbose: bool = False,
        epilog: str | None = None,
        **flag_arguments: Any,
    ) -> None:
        """Build the parser with a flag for every field of the ``settings``; ``flag_arguments`` are arguments of `add_flags`."""
        super().__init__(
            name_command(command_name),
            None,
            description,
            epilog,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        if verbose:
            self.add_argument("-v", "--verbose", action="store_true", help="show messages of all libraries")
        for settings_class in settings:
            add_flags(self, settings_class, **flag_arguments)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv`` and set up logging."""
        args = self.parse_intermixed_args(translate_flags(argv, self._option_string_actions))
        setup_logging(getattr(args, "verbose", False))
        return args

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, with the nearest flag if one is unknown, and exit with code 2."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        if flag in REPLACEMENTS:
            hint = f"; instead: {REPLACEMENTS[flag]}"
        else:
            hint = suggest_name(flag, self._option_string_actions) if flag else ""
        sys.stderr.write(f"{self.prog}: error: {' '.join(message.splitlines())}{hint}\n")
        raise SystemExit(2)


def announce(action: str) -> None:
    """Say on a terminal what the command is about to do, as in "training lif_ppo on CartPole-v1".

    Every command that may take a second calls it before it imports PyTorch or a simulator. Of several processes only the
    first one says it.
    """
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{action}\n")
        sys.stderr.flush()


def setup_logging(verbose: bool) -> None:
    """Send the package's messages to stderr; of other libraries only warnings and errors, or all messages if ``verbose``."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for logger in (log, logging.getLogger("isaaclab_mujoco")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)
