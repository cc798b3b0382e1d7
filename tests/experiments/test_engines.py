"""Engines bring every cell to its end, so many at once, and one that fails does not touch the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from spiky_rl import files
from spiky_rl.experiments import engines
from spiky_rl.experiments.engines import base
from spiky_rl.experiments.engines.base import BROKEN, DONE, RUNNING, STOPPED, EngineError, Order
from tests.experiments.test_grid import cells as planned


def order(out: Path, changed=lambda states: None, asked=lambda: False, parallel=2) -> Order:
    """Of three cells that are finished when their turn comes, and one that fails on a bad argument."""
    cells = planned()[2:6]
    for cell in cells:
        own = {"hash": cell.hash, "train": ["--agent", "lif_poo"], "processes": 1}
        files.write_json(out / "cells" / cell.name / "cell.json", own)
        if cell is not cells[1]:
            files.write_json(out / "cells" / cell.name / "result.json", {"hash": cell.hash})
    return Order(cells, out, parallel, changed, asked)


def test_a_failed_cell_never_stops_the_others(tmp_path):
    seen = []
    given = order(tmp_path, lambda states: seen.append(list(states.values())))
    states = engines.create("local").run(given)
    assert list(states.values()) == [DONE, BROKEN, DONE, DONE]
    assert max(found.count(RUNNING) for found in seen) == 2


def test_cells_run_one_at_a_time_where_that_is_asked(tmp_path):
    seen = []
    engines.create("local").run(
        order(tmp_path, lambda states: seen.append(list(states.values())), parallel=1)
    )
    assert max(found.count(RUNNING) for found in seen) == 1


def test_nothing_is_begun_after_a_stop(tmp_path):
    states = engines.create("local").run(order(tmp_path, asked=lambda: True))
    assert set(states.values()) == {STOPPED}


def test_a_cell_gets_its_part_of_the_cores_unless_the_user_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert base.environment(2, 8)["OMP_NUM_THREADS"] == "4"
    assert base.environment(16, 8)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert base.environment(2, 8)["OMP_NUM_THREADS"] == "3"


def test_without_ray_the_install_line_is_named():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from spiky_rl.experiments import engines\n"
        "try: engines.create('ray')\n"
        "except engines.EngineError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'spiky-rl[ray]'" in said


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


def test_a_cluster_works_all_cells(cluster, tmp_path):
    states = engines.create("ray", address=cluster.address).run(order(tmp_path))
    assert list(states.values()) == [DONE, BROKEN, DONE, DONE]


def test_what_no_machine_of_the_cluster_has_is_refused(cluster, tmp_path):
    with pytest.raises(EngineError, match="--cell_cpus 64"):
        engines.create("ray", address=cluster.address, cpus=64.0).run(order(tmp_path))


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(EngineError, match="--ray_address 127.0.0.1:1"):
        engines.create("ray", address="127.0.0.1:1").run(order(tmp_path))
