"""Hosts: one package per simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.modules import load_module
from spiky_rl.config.registry import RegistryError, list_packages, load_package
from spiky_rl.config.spec import get_task_id

if TYPE_CHECKING:
    from spiky_rl.hosts.base import Host


def list_hosts() -> tuple[str, ...]:
    """Return the names of all hosts, sorted. Imports none of them."""
    return list_packages("hosts")


def get_host(name: str) -> Host:
    """Return the host ``name``. Its simulator is imported only when needed."""
    return load_package("hosts", name)


def find_host(task: str, key: str = "--task") -> Host:
    """Return the host of a ``task``, given by a file stem of tasks/ or a registered id.

    Imports the module that registers the task if ``task`` names one before a colon.

    Raises UnknownTask with the nearest names if no host owns the task; ``key`` is the flag or key that gives it.
    """
    from spiky_rl.hosts.base import UnknownTask, make_unknown_task

    module, _, registered_id = get_task_id(task).rpartition(":")
    if module:
        try:
            load_module(module)
        except RegistryError as error:
            raise UnknownTask(f"{key}: {task!r}: {error}") from error.__cause__
    hosts = [get_host(name) for name in list_hosts()]
    owners = (host for host in hosts if host.owns(registered_id))
    if (owner := next(owners, None)) is not None:
        # a host that cannot list its tasks may own any
        return owner if owner.list_tasks() else next(owners, owner)
    raise make_unknown_task(key, task, {name for host in hosts for name in host.list_tasks()})
