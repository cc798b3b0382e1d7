"""Engines bring every cell to its end, so many at once, and one that fails does not touch the others."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.experiments.design import study
from spiky_rl.experiments.run import engines
from spiky_rl.experiments.run.comparison import StudyRun
from spiky_rl.experiments.run.engines import base
from spiky_rl.experiments.run.engines.base import (
    BROKEN,
    DONE,
    RUNNING,
    STOPPED,
    WAITING,
    EngineError,
    WorkOrder,
)
from spiky_rl.experiments.run.engines.local import LocalEngine
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from tests.experiments.results import finish
from tests.experiments.test_grid import cells as planned


def order(out: Path, changed=lambda states: None, asked=lambda: False, parallel=2) -> WorkOrder:
    """Of three cells that are finished when their turn comes, and one that fails on a bad argument."""
    cells = planned()[2:6]
    for cell in cells:
        own = {"hash": cell.hash, "train": ["--agent", "lif_poo"], "processes": 1, "library": "rsl_rl"}
        files.write_json(out / "cells" / cell.name / "cell.json", own)
        if cell is not cells[1]:
            finish(out / "cells" / cell.name, cell.name, cell.hash)
    return WorkOrder(cells, out, parallel, changed, asked)


def test_a_failed_cell_never_stops_the_others(tmp_path):
    seen = []
    given = order(tmp_path, lambda states: seen.append(list(states.values())))
    states = engines.create("local").run(given)
    assert list(states.values()) == [DONE, BROKEN, DONE, DONE]
    assert max(found.count(RUNNING) for found in seen) == 2


def test_cells_run_one_at_a_time_where_that_is_asked(tmp_path):
    seen = []
    given = order(tmp_path, lambda states: seen.append(list(states.values())), parallel=1)
    engines.create("local").run(replace(given, cells=given.cells[2:]))
    assert max(found.count(RUNNING) for found in seen) == 1


def test_a_student_waits_for_its_teacher_and_for_nothing_else(tmp_path):
    given, seen = order(tmp_path), []
    student, others = given.cells[0], given.cells[1:]
    student = student.model_copy(update={"teacher": others[0].name})
    cells = (student, *others)
    work = replace(given, cells=cells, on_change=lambda states: seen.append(dict(states)))
    states = engines.create("local").run(work)
    assert states[student.name] == DONE, "a teacher that failed is reported by its student's worker"
    for found in seen:
        if found[others[0].name] in (WAITING, RUNNING):
            assert found[student.name] == WAITING
    assert seen[0][others[1].name] == RUNNING


def later(given: WorkOrder, batches: list) -> WorkOrder:
    """The same cells, one batch when all before it have ended."""

    def more(states):
        return batches.pop(0) if batches and not {WAITING, RUNNING} & set(states.values()) else ()

    return replace(given, cells=(), more_cells=more)


def test_an_engine_takes_cells_that_come_to_be_while_it_works(tmp_path):
    given = order(tmp_path)
    states = engines.create("local").run(later(given, [given.cells[:1], given.cells[2:]]))
    assert states == {cell.name: DONE for cell in (given.cells[0], *given.cells[2:])}
    assert (
        engines.create("local").run(replace(later(given, [given.cells]), stop_requested=lambda: True)) == {}
    )


def test_nothing_is_begun_after_a_stop(tmp_path):
    states = engines.create("local").run(order(tmp_path, asked=lambda: True))
    assert set(states.values()) == {STOPPED}


def test_a_cell_gets_its_part_of_the_cores_unless_the_user_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert base.make_environment(2, 8)["OMP_NUM_THREADS"] == "4"
    assert base.make_environment(16, 8)["OMP_NUM_THREADS"] == "1"
    assert base.make_environment(2, 16, processes=4)["OMP_NUM_THREADS"] == "2"
    assert base.make_environment(2, 8, processes=16)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert base.make_environment(2, 8)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("distributed", "threads"), [(1, "8"), (2, "4"), (16, "1")])
def test_processes_of_a_cell_share_its_cores(tmp_path, monkeypatch, distributed, threads):
    """As the plan says: a result with other threads than planned is refused."""
    started, engine = [], LocalEngine()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, stdin: started.append(env))
    plan = StudyRun(
        study=None, folder=tmp_path, place=ExecutionOptions(distributed=distributed), resolve=None,
        cells=planned()[2:3], finished=set(),
    )  # fmt: skip
    monkeypatch.setattr(LocalEngine, "wait", lambda engine, order: dict.fromkeys(engine.running, DONE))
    plan.run(engine, (), lambda states: None, lambda: False)
    assert started[0]["OMP_NUM_THREADS"] == threads == str(plan.place.threads)


TWO, FOUR = ["0", "1"], ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("count", "shown", "expected"),
    [(0, "", ()), (2, "", ("0", "1")), (2, "3, 5", ("3", "5")), (1, "MIG-a,9", ("MIG-a",))],
)
def test_gpus_are_named_as_the_user_shows_them(count, shown, expected):
    assert base.list_visible_gpus(count, shown) == expected


@pytest.mark.parametrize(
    ("gpus", "processes", "expected"),
    [([], 1, []), (TWO, 1, TWO), (FOUR, 2, ["0,1", "2,3"]), (["0", "1", "2"], 2, ["0,1"]), (["7", "MIG-a"], 1, ["7", "MIG-a"])],
)  # fmt: skip
def test_gpus_are_shared_out_by_the_processes_of_a_cell(gpus, processes, expected):
    assert base.split_gpus(gpus, processes) == expected


@pytest.mark.parametrize(
    ("found", "taken", "expected"),
    [([], [], None), (TWO, [], "0"), (TWO, ["0"], "1"), (TWO, ["0", "1", "1"], "0"), (["0,1", "2,3"], ["1"], "2,3"), (TWO, [None], "0")],
)  # fmt: skip
def test_a_cell_gets_the_gpus_that_the_fewest_others_use(found, taken, expected):
    assert base.choose_gpus(found, taken) == expected


def test_cells_at_once_see_different_gpus(tmp_path):
    seen: dict[str, str] = {}

    def look(_):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_text().split("\0")
                given = (process / "environ").read_text().split("\0")
            except OSError:  # it has ended since
                continue
            if "spiky_rl.experiments.run.cell_worker" in line and str(tmp_path) in line:
                seen.update((line[3], text) for text in given if text.startswith("CUDA_VISIBLE_DEVICES="))

    given = replace(order(tmp_path, look), gpus=("5", "7"))
    engines.create("local").run(replace(given, cells=given.cells[:2]))
    assert sorted(seen.values()) == ["CUDA_VISIBLE_DEVICES=5", "CUDA_VISIBLE_DEVICES=7"]


@pytest.mark.parametrize(("agent", "num_envs"), [("mlp_ppo", 8), ("mlp_td3", 1)])
def test_a_plan_for_the_gpu_of_another_machine_has_the_environments_of_a_run_there(
    tmp_path, monkeypatch, agent, num_envs
):
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    task = tmp_path / "mine.yaml"
    task.write_text("{id: Pendulum-v1, num_envs: {cpu: 4, cuda: 8}}")
    asked = study.build_study("mine", {"agents": [agent], "tasks": [str(task)]})
    planned = AgentResolver(asked, ExecutionOptions(device="cuda", dry_run=True))(str(task), agent, {})
    assert (planned.device, planned.num_envs) == ("cuda", num_envs)


def test_several_processes_are_refused_for_an_agent_that_another_library_trains_in_one():
    pytest.importorskip("gymnasium", reason="the gymnasium extra is not installed")
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    mixed = study.build_study("mine", {"agents": ["mlp_ppo", "mlp_td3"], "tasks": ["Pendulum-v1"]})
    resolve = AgentResolver(mixed, ExecutionOptions(device="cpu", distributed=2))
    assert resolve("Pendulum-v1", "mlp_ppo", {}).library == "rsl_rl"
    said = "--distributed 2: mlp_td3: not available with --rl_library skrl; allowed: rsl_rl"
    with pytest.raises(UserError, match=said):
        resolve("Pendulum-v1", "mlp_td3", {})


def test_without_ray_the_install_line_is_named():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from spiky_rl.experiments.run import engines\n"
        "try: engines.create('ray')\n"
        "except engines.EngineError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "in a clone: pip install '.[ray]'" in said


CANCELLED = """
import _thread, signal, sys, threading, time
from pathlib import Path
from spiky_rl.experiments.run.engines.ray import run_cell_process

out, cell = Path(sys.argv[1]), '''
import signal, sys, time
from pathlib import Path
asked = []
signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
Path(sys.argv[1], "began").touch()
deadline = time.monotonic() + 60
while not asked and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(1.0)
Path(sys.argv[1], "checkpoint").touch()
sys.exit(3 if asked else 0)
'''

def cancel():
    while not (out / "began").exists():
        time.sleep(0.01)
    for _ in range(3):
        _thread.interrupt_main()
        time.sleep(0.3)

threading.Thread(target=cancel, daemon=True).start()
print(run_cell_process([sys.executable, "-c", cell, str(out)], {}), (out / "checkpoint").exists())
"""


def test_a_cancelled_task_ends_when_its_cell_has_kept_a_checkpoint(tmp_path):
    """Ray cancels a running task as `_thread.interrupt_main` does, in every round again."""
    line = [sys.executable, "-c", CANCELLED, str(tmp_path)]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert said == "3 True\n"


ray = pytest.importorskip("ray", reason="Ray is not installed: the extra 'ray'")


@pytest.fixture(scope="module")
def cluster():
    """A real cluster of two worker machines, as processes here."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_cluster_works_all_cells(cluster, tmp_path):
    states = engines.create("ray", address=cluster.address).run(order(tmp_path))
    assert list(states.values()) == [DONE, BROKEN, DONE, DONE]


@pytest.mark.slow
def test_a_cluster_takes_cells_that_come_to_be_while_it_works(cluster, tmp_path):
    given = order(tmp_path)
    engine = engines.create("ray", address=cluster.address)
    states = engine.run(later(given, [given.cells[:1], given.cells[2:]]))
    assert states == {cell.name: DONE for cell in (given.cells[0], *given.cells[2:])}


@pytest.mark.slow
def test_what_no_machine_of_the_cluster_has_is_refused(cluster, tmp_path):
    with pytest.raises(EngineError, match="--cell_cpus 64"):
        engines.create("ray", address=cluster.address, cpus=64.0).run(order(tmp_path))


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(EngineError, match="--ray_address 127.0.0.1:1"):
        engines.create("ray", address="127.0.0.1:1").run(order(tmp_path))


GUARDED = """
import json, os, sys
from pathlib import Path
from spiky_rl.config import files
from spiky_rl.experiments.run import engines
from spiky_rl.experiments.run.engines.base import WorkOrder
from tests.experiments.results import finish
from tests.experiments.test_grid import cells

out, (cell, *_) = Path(sys.argv[1]), cells()
files.write_json(out / "cells" / cell.name / "cell.json", {"hash": cell.hash})
finish(out / "cells" / cell.name, cell.name, cell.hash)

def changed(states, told=[]):
    if not told:
        told.append(True)
        import ray
        address = ray.get_runtime_context().gcs_address
        print(json.dumps({"address": address, "token": os.environ["RAY_AUTH_TOKEN"]}), flush=True)
        input()

print(engines.create("ray").run(WorkOrder([cell], out, 1, changed, lambda: False)))
"""
CLIENT = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print("ran as", ray.get(ray.remote(lambda: "a task")._remote(num_cpus=0)))
"""


def client(address: str, **environment: str) -> tuple[str, str]:
    """The answer that another process of this machine gets if it sends a task to a cluster, and the reason without one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, address], env={**kept, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            if "InvalidAuthToken" in line:  # it would ask again for minutes
                process.kill()
                return process.stdout.read(), line
        return process.stdout.read(), ""


@pytest.mark.slow
def test_a_cluster_that_a_study_starts_takes_tasks_from_nobody_else(tmp_path):
    """Whatever the user's environment says of authentication and of other clusters."""
    root, home = str(Path(__file__).parents[2]), tmp_path / "home"
    home.mkdir()
    given = {"PYTHONPATH": root, "HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "127.0.0.1:1"}
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED, str(tmp_path / "out")], cwd=root, env={**os.environ, **given},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as study:  # fmt: skip
        assert study.stdin is not None and study.stdout is not None
        said = json.loads(study.stdout.readline())
        address, token = said["address"], said["token"]
        mode = {"RAY_AUTH_MODE": "token", "HOME": str(home)}
        strangers = [client(address), client(address, **mode, RAY_AUTH_TOKEN="0" * 64)]
        known = client(address, **mode, RAY_AUTH_TOKEN=token)
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        logs = list(Path("/tmp/ray/session_latest/logs").resolve().rglob("*.*"))
        study.stdin.write("\n")
        study.stdin.flush()
        rest = study.stdout.read()
    assert study.returncode == 0 and DONE in rest, rest
    assert [(answer, "InvalidAuthToken" in reason) for answer, reason in strangers] == [
        ("", True),
        ("", True),
    ]
    assert known == ("ran as a task\n", "")
    assert address.startswith("127.0.0.1:")
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, int(address.partition(":")[2])), timeout=5.0).close()
    assert len(token) == 64 and not any(token.encode() in line for line in lines)
    written = [path for path in (*logs, *tmp_path.rglob("*")) if path.is_file()]
    assert logs and not [path for path in written if token.encode() in path.read_bytes()]
