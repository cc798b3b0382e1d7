"""Cells as Ray tasks, on a cluster of machines that share the study's folder, or on this machine."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, override

from spiky_rl.config.errors import format_install_command
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.cells import is_finished
from spiky_rl.experiments.run.engines.base import (
    BROKEN,
    DONE,
    STOPPED,
    Engine,
    EngineError,
    WorkOrder,
    get_cell_state,
    make_command,
    make_environment,
)

if TYPE_CHECKING:
    from ray import ObjectRef

RETRIES = 5
"""Number of times that a cell starts again after its machine was lost; it resumes from its last checkpoint."""
CONNECT_TIMEOUT_S = 5.0
"""Seconds within which a cluster has to answer."""
POLL_INTERVAL_S = 0.5
"""Seconds between checks of the tasks."""
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
"""Environment variables of Ray's authentication."""
NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters that other machines join, which it reads on every system; 0 binds all ports to loopback."""
AUTHENTICATED = (2, 52)
"""First version of Ray with tokens."""

log = logging.getLogger(__name__)


class RayEngine(Engine):
    """Engine whose cells run where Ray's scheduler decides; a cell takes ``cpus`` and ``gpus`` there."""

    def __init__(self, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        """Set the cluster and the resources of a cell; a fraction of ``gpus`` shares one.

        ``address`` is that of a running cluster, ``auto`` for the one of this machine; None starts a private one here.
        """
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.running = dict["ObjectRef[int]", Cell]()
        self.worker: Any = None
        """Ray's remote function of a cell; None before `run`."""

    @override
    def run(self, order: WorkOrder) -> dict[str, str]:
        with make_ray_environment() if self.address is None else nullcontext():
            import ray  # here, because it reads its environment once

            self.connect()
            try:
                self.require_resources()
                remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)
                self.worker = remote(run_cell_process)
                return super().run(order)
            finally:
                ray.shutdown()

    def connect(self) -> None:
        """Join the cluster or start one here. Raises EngineError if there is none."""
        import ray
        from ray.exceptions import RayError

        if self.address is None and tuple(map(int, ray.__version__.split(".")[:2])) < AUTHENTICATED:
            raise EngineError(
                f"--engine ray: Ray {ray.__version__} has no authentication, so others could run code here; install a later"
                f" one {format_install_command('-U', '.[ray]')}"
            )
        try:
            if self.address and (place := re.fullmatch(r"(?:ray://)?(.+):(\d+)", self.address)):
                # Ray itself would wait for minutes
                socket.create_connection((place[1], int(place[2])), timeout=CONNECT_TIMEOUT_S).close()
            ray.init(
                address=self.address or "local",  # None would join whatever RAY_ADDRESS names
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
        except (OSError, OverflowError, RayError, RuntimeError, ValueError) as error:
            where = f"--ray_address {self.address}: no Ray cluster answers there"
            reason = where if self.address else "--engine ray: no Ray cluster starts here"
            raise EngineError(f"{reason}: {' '.join(str(error).split())[:400]}") from None
        if self.address and os.environ.get(MODE) != "token":
            log.warning(
                "the Ray cluster at %s needs no token, so everyone who reaches its ports can run code as you; start it, and this"
                " command, with %s=token (see docs/experiments.md)",
                self.address,
                MODE,
            )

    def require_resources(self) -> None:
        """Raise EngineError if no machine of the cluster can hold a cell."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = [n for n in nodes if n.get("CPU", 0.0) >= self.cpus and n.get("GPU", 0.0) >= self.gpus]
        if not fits:
            raise EngineError(
                f"--cell_cpus {self.cpus:g} --cell_gpus {self.gpus:g}: no machine of the cluster has so many"
            )

    @override
    def start(self, order: WorkOrder, cell: Cell) -> None:
        threads = max(1, int(self.cpus))
        environment = make_environment(order.parallel, threads * order.parallel, processes=order.processes)
        variables = {key: environment[key] for key in ("OMP_NUM_THREADS", "SPIKY_RL_CELLS")}
        self.running[self.worker.remote(make_command(order, cell), variables)] = cell

    @override
    def stop(self) -> None:
        import ray

        for task in self.running:
            ray.cancel(task)

    @override
    def wait(self, order: WorkOrder) -> dict[str, str]:
        import ray

        states: dict[str, str] = {}
        for task in ray.wait(list(self.running), timeout=POLL_INTERVAL_S)[0]:
            cell = self.running.pop(task)
            states[cell.name] = get_task_state(task)
            if states[cell.name] == DONE:
                require_result(order, cell)
        return states


@contextmanager
def make_ray_environment() -> Iterator[None]:
    """Set environment variables so that only this command can use the cluster it starts: a random token, on loopback."""
    variables = {MODE: "token", TOKEN: secrets.token_hex(32), NETWORK: "0"}
    old_values = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in old_values.items():
            os.environ.pop(key)
            os.environ.update({} if value is None else {key: value})


def run_cell_process(arguments: Sequence[str], variables: dict[str, str]) -> int:
    """Run a cell's worker on the machine that Ray chose and return its exit code; the worker has no token and ends with this process.

    ``arguments`` are its command line; ``variables`` are added to the environment.
    """
    line, env = [*arguments, str(os.getpid())], {**os.environ, **variables}
    env.pop(TOKEN, None)
    with subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL) as process:
        while True:
            try:
                # without a limit, Ray's interrupt would arrive after the cell's end
                return process.wait(POLL_INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                # the driver has cancelled the task; the cell still writes its checkpoint
                process.terminate()
            except BaseException:
                process.terminate()
                raise


def get_task_state(task: ObjectRef[int]) -> str:
    """Return a cell's state after its ``task`` has ended."""
    import ray
    from ray.exceptions import RayError, TaskCancelledError

    try:
        return get_cell_state(ray.get(task))
    except TaskCancelledError:
        return STOPPED
    except RayError:
        return BROKEN


def require_result(order: WorkOrder, cell: Cell) -> None:
    """Raise EngineError if the result of a finished ``cell`` is not in the study's folder here."""
    if not is_finished(order.out / "cells" / cell.name, cell.hash):
        raise EngineError(
            f"{order.out}: cell {cell.name} is finished elsewhere, but its result is not here; on a cluster"
            " --out must lie in a folder that all machines share"
        )
