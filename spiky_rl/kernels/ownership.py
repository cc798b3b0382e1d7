"""Ownership checks of folders that code is loaded from: a library runs with all rights of the user who loads it."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from pathlib import Path

from spiky_rl.config.registry import UserError

PRIVATE = 0o700
"""Permissions of folders and files that code is loaded from."""


def create_private_folder(folder: Path) -> None:
    """Make a ``folder`` that only this user can access. Raises UserError as `check_owner`, OSError if it cannot be made."""
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    check_owner(folder)
    folder.chmod(PRIVATE)


def check_owner(path: Path) -> None:
    """Raise UserError if another user owns ``path`` or may write to it."""
    status, own = path.stat(), os.geteuid()
    remedy = "set SPIKY_RL_CACHE to a folder of your own"
    if status.st_uid != own:
        raise UserError(
            f"{path} belongs to user {_get_user_name(status.st_uid)}; user {_get_user_name(own)} loads no code from it: {remedy}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{path} may be written by other users (mode {stat.S_IMODE(status.st_mode):o}), so no code is loaded from it: remove"
            f" it (rm -r {shlex.quote(str(path))}) and run again, or {remedy}"
        )


def _get_user_name(user: int) -> str:
    """Return the name of ``user``, or the number if this machine has no name for it."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
