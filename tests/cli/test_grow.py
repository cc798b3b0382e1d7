"""``grow.py`` and ``show.py reservoir``: from an evolution to a graph's measures and picture."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from spiky_rl.cli.grow import grow
from spiky_rl.cli.show import show
from spiky_rl.config import registry
from spiky_rl.reservoirs import description
from spiky_rl.reservoirs.graphs import grown
from spiky_rl.reservoirs.growth import scoring
from spiky_rl.reservoirs.growth.settings import Task
from spiky_rl.reservoirs.picture import compute_spring_layout
from tests.cli.refusals import run_command

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--tournaments", "1", "--population", "2", "--min_size", "5", "--max_size", "40"]
drawing = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: the extra 'isaaclab'"
)


def run(command, *argv):
    return run_command(command, argv)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("grown") / "small.json"
    assert run(grow, "--out", path, *SMALL) == 0
    return path


def test_an_evolution_leaves_a_graph_that_a_reservoir_takes(file):
    graph = grown.read(file)
    assert 5 <= graph.size <= 40
    assert graph.measured["task"] == "narma10" and 0.3 < graph.fitness < 1.2
    settings = {"name": "reservoir", "size": graph.size, "graph": {"name": "grown", "file": str(file)}}
    net = registry.configure("networks", settings, "network").build(inputs=1, outputs=1)
    assert ((net.wiring.weights != 0) == graph.adjacency).all()


def test_the_same_seed_grows_the_same_file(file, tmp_path, capsys):
    assert run(grow, "--out", tmp_path / "again.json", *SMALL) == 0
    assert (tmp_path / "again.json").read_text() == file.read_text()
    captured = capsys.readouterr()
    assert "tournament    1/1" in captured.err and "growths" in captured.err
    (line,) = captured.out.splitlines()
    assert f"{tmp_path / 'again.json'}: {grown.read(file).size} nodes" in line


@pytest.mark.slow
def test_an_interruption_keeps_the_best_so_far(tmp_path):
    path = tmp_path / "kept.json"
    command = [sys.executable, *"scripts/grow.py --tournaments 5000 --max_size 40 --out".split(), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200.0
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "kept.json" in stderr and "Traceback" not in stderr
    assert grown.read(path).size >= 20


@pytest.mark.parametrize("task", get_args(Task))
def test_every_task_of_the_command_is_scored(task):
    score = scoring.ReservoirScore(task, 0, train=40, test=40, series=2, washout=5)
    assert np.isfinite(score.evaluate(lambda u: np.concatenate([np.roll(u, i, 1) for i in range(3)], 2)))


def test_limits_that_nothing_fits_are_told_of(tmp_path, capsys):
    argv = ["--out", tmp_path / "none.json", "--tournaments", "1", "--min_size", "199", "--max_size", "199"]
    assert run(grow, *argv, "--population", "2") == 2
    assert "error: no rule grew a connected graph of 199 to 199 nodes" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--out", "graph.txt"], "--out 'graph.txt': suffix '.txt'; allowed: .json"),
        (["--out", "/proc/g.json"], "--out: cannot write to '/proc'"),
        (["--out", "g.json", "--population", "1"], "--population 1: a tournament needs at least 2"),
        (["--out", "g.json", "--min_size", "300"], "--min_size 300: must be between 2 and --max_size"),
        (["--out", "g.json", "--task", "narma"], "invalid choice: 'narma'"),
        (["--out", "g.json", "--tournament", "3"], "did you mean '--tournaments'?"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_a_bad_command_line_is_refused(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(grow, *argv) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@drawing
def test_show_prints_structure_measures_and_comparison_and_draws(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(description, "SEEDS", range(1))
    monkeypatch.setattr(description, "ECHO_STATE_SIZE", 50)
    monkeypatch.chdir(tmp_path)
    assert run(show, "reservoir", file, "--compare", "--json", "small.json") == 0
    numbers = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    graph, text = grown.read(file), capsys.readouterr().out
    for words in (
        f"grown with seed 0, NRMSE {graph.fitness:.4f} on narma10",
        f"{graph.size}: ", f"{len(graph.edges)}, density", "spectral radius", "strong components",
        "kernel rank         ", "generalisation rank", "memory capacity", "Lyapunov exponent", "separation",
        "NARMA-10 ", "NARMA-30 ", f"spiking, N = {graph.size}", "echo state, N = 50", "picture: small.png",
    ):  # fmt: skip
        assert words in text, words
    spiking, _, echo = numbers["nrmse"].values()
    assert f"NRMSE {spiking[0]:.3f} ± 0.000" in text and f"NRMSE {echo[0]:.3f} ± 0.000" in text
    assert numbers["neurons"] == graph.size and numbers["features"] == 3 * graph.size
    picture = tmp_path / "small.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 10_000


@drawing
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["reservoir"], "name: missing; give the .json of a grown graph, or an agent"),
        (["reservoir", "none.json"], "cannot read 'none.json': No such file"),
        (["reservoir", "lif_ppo"], "network.name: 'feedforward' given; allowed: reservoir"),
        (["reservoir", "mlp_ppo"], "given; allowed: reservoir"),
        (["reservoir", "lif_pppo"], "mean 'lif_ppo'"),
        (
            ["reservoir", "x.json", "--out", "x.txt"],
            "--out 'x.txt': suffix '.txt'; allowed: .png, .pdf, .svg",
        ),
        (["reservoir", "x.json", "--out", "/proc/x.png"], "--out: cannot write to '/proc'"),
        (["graphs", "--compare"], "--out, --compare: only available for a reservoir"),
        (["reservoir", "x.json", "--json", "y.json"], "--json: needs --compare"),
        (
            ["neurons", "lif", "agent.network.steps=2"],
            "overrides are only available for an agent or a reservoir",
        ),
        (["reservoir", "x.json", "agent.network.size=9"], "agent.network.size=9: x.json is not an agent"),
        (["reservoir", "lif_reservoir_ppo", "agent.network.sise=9"], "did you mean 'size'"),
    ],
)
def test_show_refuses_what_is_no_reservoir(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(show, *argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("policies", "Isaac-Ant.lif_pppo", "did you mean 'Isaac-Ant.lif_ppo'"),
        ("spaces", "pilott", "did you mean 'pilot'"),
    ],
)
def test_show_names_the_entries_of_a_kind_that_has_no_such_name(kind, name, words, capsys):
    assert run(show, kind, name) == 2
    said = capsys.readouterr().err
    assert f"error: {kind}: '{name}' given; allowed: " in said and words in said


def test_show_lists_the_graphs(capsys):
    assert run(show, "graphs") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("erdos_renyi", "maass", "grown"))


def test_the_wrong_measure_in_a_file_is_refused_by_key(file, tmp_path, capsys):
    data = json.loads(file.read_text())
    data["measured"]["network"] = {"name": "reservoir", "trace": [20.0]}
    (tmp_path / "odd.json").write_text(json.dumps(data))
    assert run(show, "reservoir", tmp_path / "odd.json", "--out", tmp_path / "odd.png") == 2
    assert "network.trace: 'reservoir' has no such option" in capsys.readouterr().err


def test_parts_of_a_graph_are_drawn_apart():
    there = np.zeros((7, 7), bool)
    there[0, 1] = there[1, 2] = there[4, 5] = there[6, 6] = True
    place = compute_spring_layout(there)
    assert np.isfinite(place).all()
    assert len(np.unique(place.round(6), axis=0)) == 7
