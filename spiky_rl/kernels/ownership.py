"""Whose code a process loads: its own user's alone, because a library runs with all rights of whoever loads it."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

from spiky_rl.config.registry import UserError

PRIVATE = 0o700
"""Mode of folders and files that code is loaded from."""


def create_private_folder(folder: Path) -> None:
    """Make a ``folder`` that is this user's alone. Raises UserError as `check_owner`, OSError where it cannot be made."""
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    check_owner(folder)
    folder.chmod(PRIVATE)


def check_owner(path: Path) -> None:
    """Raise UserError where code in ``path`` may be another user's: it belongs to one, or others may write to it."""
    status, own = path.stat(), os.geteuid()
    remedy = "set SPIKY_RL_CACHE to a folder of your own"
    if status.st_uid != own:
        raise UserError(
            f"{path} belongs to user {_named(status.st_uid)}; user {_named(own)} loads no code from it: {remedy}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{path} may be written by other users (mode {stat.S_IMODE(status.st_mode):o}), so no code is loaded from it: remove"
            f" it (rm -r {shlex.quote(str(path))}) and run again, or {remedy}"
        )


def _named(user: int) -> str:
    """A user's name where this machine knows it, else the number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
