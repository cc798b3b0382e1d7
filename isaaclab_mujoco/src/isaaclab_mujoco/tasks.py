"""The entry point ``isaaclab.tasks``: Isaac Lab's commands import this module before they read their command line.

It offers ``physics=mujoco`` to every registered task if the command line asks for that or for help. Every other command runs as
if this package were not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from isaaclab_mujoco.presets import offer_preset
from isaaclab_mujoco.selection import NATIVE

HELP = ("-h", "--help")


def is_requested(arguments: Iterable[str]) -> bool:
    """Return whether ``arguments`` select the preset ``mujoco`` or ask for help."""
    return any(text in HELP or NATIVE in text.partition("=")[2].split(",") for text in arguments)


def register_presets() -> None:
    """Offer ``physics=mujoco`` to all tasks of Isaac Lab and of the packages that extend it."""
    from isaaclab.cli import load_external_tasks

    # the other packages are loaded first: they may have tasks, and settings that Isaac Lab reads only when it is imported
    load_external_tasks()

    import gymnasium
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import  # registers the tasks

    offer_preset(gymnasium.registry.values())


if is_requested(sys.argv[1:]):
    register_presets()
