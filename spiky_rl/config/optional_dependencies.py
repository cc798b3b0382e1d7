"""Extras: libraries that only some commands need, and how to install them."""

from __future__ import annotations

import importlib.util

from spiky_rl.config.options import UserError


def require_module(module: str, extra: str) -> None:
    """Raise UserError with the install line where a library is missing.

    Args:
        module: What Python imports.
        extra: The extra of our package that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{module} is not installed; install it with: pip install 'spiky-rl[{extra}]'")
