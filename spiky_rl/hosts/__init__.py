"""What simulates: one package for each simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.packages import list_packages, load_package

if TYPE_CHECKING:
    from spiky_rl.hosts.base import Host


def list_hosts() -> tuple[str, ...]:
    """Return the names of all hosts, sorted. Imports none of them."""
    return list_packages("hosts")


def get_host(name: str) -> Host:
    """Return the host ``name``. Its simulator is imported only where it is needed."""
    return load_package("hosts", name)


def find_host(task: str) -> Host:
    """Return the host that a ``task`` belongs to: a file stem of tasks/, or a registered id.

    Where no host claims the task, the first one is returned, whose `Host.check_task` names the nearest tasks.
    """
    hosts = [get_host(name) for name in list_hosts()]
    return next((host for host in hosts if host.owns(task)), hosts[0])
