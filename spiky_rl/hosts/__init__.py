"""Hosts: one package per simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.packages import list_packages, load_package

if TYPE_CHECKING:
    from spiky_rl.hosts.base import Host


def list_hosts() -> tuple[str, ...]:
    """Return the names of all hosts, sorted. Imports none of them."""
    return list_packages("hosts")


def get_host(name: str) -> Host:
    """Return the host ``name``. Its simulator is imported only when needed."""
    return load_package("hosts", name)


def find_host(task: str) -> Host:
    """Return the host of a ``task``, given by a file stem of tasks/ or a registered id.

    If no host owns the task, return the first one; its `Host.check_task` names the nearest tasks.
    """
    hosts = [get_host(name) for name in list_hosts()]
    return next((host for host in hosts if host.owns(task)), hosts[0])
