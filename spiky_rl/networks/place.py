"""Where in an agent an error stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spiky_rl.config.registry import RegistryError


@contextmanager
def at(path: str) -> Iterator[None]:
    """Say in an error where in the agent its cause stands."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}") from None
