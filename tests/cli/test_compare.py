"""A comparison survives being killed, tells a failed cell from the others, and refuses what is none before it begins."""

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from spiky_rl.cli.compare import compare
from spiky_rl.config.options import UserError
from spiky_rl.experiments.design import study
from spiky_rl.experiments.run import comparison
from spiky_rl.experiments.run.planning import ExecutionOptions
from tests import processes
from tests.cli.refusals import refused
from tests.experiments.results import finish

if find_spec("isaaclab") is None:
    pytest.skip("Isaac Lab is not installed: the extra 'isaaclab'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(2 * processes.PATIENCE)
SMALL = [
    *("--tasks", "cartpole", "--seeds", "0", "--num_envs", "64", "--device", "cpu", "--assets", "local"),
    *("--episodes", "2", "--conditions", "nominal,push", "--parallel", "2"),
]
BROKEN = '''
"""A readout that breaks when it is used."""

from spiky_rl.codecs.decoders.rate import RateDecoder


class Broken(RateDecoder):
    """Reads what is not there."""

    def forward(self, spikes, state, keep):
        raise RuntimeError("no such spike")
'''


def line(out, agents, *more):
    return [ROOT / "scripts" / "compare.py", "--agents", agents, *SMALL, "--out", out, *more]


def started(*command):
    """``compare.py`` at work; killed at the end, if it still runs."""
    return processes.Command(*line(*command))


def finished(*command):
    """The exit code of ``compare.py`` and what it said."""
    done = processes.run(*line(*command))
    return done.returncode, done.stdout + done.stderr


def share(out, cell):
    """How much of a cell's training is done; 0 before its first iteration."""
    found = list(out.glob(f"cells/{cell}/run/*/*/*/progress.json"))
    return max((json.loads(path.read_text())["share"] for path in found), default=0.0)


def starts(out, cell, what):
    """How often a cell's step was begun."""
    return (out / "cells" / cell / "log.txt").read_text().count(f"spiky_rl.cli.cell {what} ")


CELL = "Isaac-Cartpole.lif_ppo.seed0"
BUDGET = ("--budget", "env_steps=40000")
ITERATIONS = ("agent.max_iterations=40",)
"""The same length without a budget."""


@pytest.fixture(scope="module", params=[BUDGET, ITERATIONS], ids=["budget", "iterations"])
def length(request):
    return request.param


@pytest.fixture(scope="module")
def killed(tmp_path_factory, length):
    """A comparison that was killed in the middle of a training, and run to its end with an agent more, which breaks.

    Folder, exit code, output.
    """
    folder = tmp_path_factory.mktemp("compare")
    (folder / "broken.py").write_text(BROKEN)
    agent = "network: {name: feedforward, layers: [8], decoder: 'broken.py:Broken'}\n"
    (folder / "broken.yaml").write_text(agent)
    out = folder / "out"
    with started(out, "lif_ppo", *length) as command:
        command.until(lambda: 0.0 < share(out, CELL) < 0.9)
    return out, *finished(out, f"lif_ppo,{folder / 'broken.yaml'}", *length)


@pytest.mark.slow
def test_a_stop_keeps_what_was_done(tmp_path):
    with started(tmp_path, "lif_ppo", *BUDGET) as command:
        command.until(lambda: share(tmp_path, CELL) > 0.0)
        command.send(signal.SIGTERM)
        done = command.finished()
    assert done.returncode == 128 + signal.SIGTERM
    assert "run the same command again" in done.stdout + done.stderr
    assert 0.0 < share(tmp_path, CELL) < 1.0
    cell = tmp_path / "cells" / CELL
    assert list(cell.glob("run/*/*/*/model_*.pt"))
    assert not (cell / "result.json").exists() and not (cell / "error.txt").exists()


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was_and_finishes(killed):
    out, _, said = killed
    result = json.loads((out / "cells" / CELL / "result.json").read_text())
    assert result["resumed"] == 1, said
    assert result["training"]["env_steps"] == 40 * 64 * 16
    steps = result["curve"]["env_steps"]
    assert steps == [64 * 16 * (i + 1) for i in range(40)]
    assert set(result["evaluation"]["conditions"]) == {"nominal", "push"}
    assert (out / "cells" / "Isaac-Cartpole.random" / "result.json").exists()


@pytest.mark.slow
def test_no_cell_runs_twice_to_the_end(killed):
    out = killed[0]
    ended = [
        path
        for path in out.glob(f"cells/{CELL}/run/*/*/*/result.json")
        if json.loads(path.read_text())["outcome"] == "finished"
    ]
    assert len(ended) == 1
    assert starts(out, CELL, "evaluate") == 1


@pytest.mark.slow
def test_a_cell_that_raises_is_reported_with_its_last_lines_and_the_exit_code_says_so(killed):
    out, code, said = killed
    assert code == 1
    text = (out / "cells" / "Isaac-Cartpole.broken.seed0" / "error.txt").read_text()
    assert text.startswith("the training ended with exit code") and "no such spike" in text
    assert "Isaac-Cartpole.broken.seed0 failed" in said and "no such spike" in said


@pytest.mark.slow
def test_finished_cells_are_skipped_and_more_seeds_are_added(killed, length):
    out = killed[0]
    code, said = finished(out, "lif_ppo", *length, "--dry-run", "--seeds", "0-1")
    assert code == 0 and "2 finished" in said
    assert "Isaac-Cartpole.lif_ppo.seed1" in said and "Isaac-Cartpole.broken.seed1" in said


@pytest.mark.slow
def test_the_report_names_the_failed_cell(killed):
    page = (killed[0] / "report.html").read_text()
    assert "Isaac-Cartpole.broken.seed0" in page and "no such spike" in page
    assert list((killed[0] / "tensorboard").rglob("events.*")), "TensorBoard shows the same cells"


@pytest.mark.slow
def test_a_cell_whose_newest_checkpoint_and_progress_are_damaged_goes_on(tmp_path):
    budget = ("--budget", "env_steps=100000")
    with started(tmp_path / "out", "lif_ppo", *budget) as first:
        first.until(lambda: share(tmp_path / "out", CELL) > 0.1)
        first.send(signal.SIGTERM)
        first.finished()
    held = list((tmp_path / "out" / "cells" / CELL).glob("run/*/*/*/model_*.pt"))
    assert len(held) > 1
    newest = max(held, key=lambda path: int(path.stem.partition("_")[2]))
    for path in (newest, newest.with_name("progress.json"), newest.with_name("result.json")):
        path.write_bytes(b"")
    code, said = finished(tmp_path / "out", "lif_ppo", *budget)
    assert code == 0, said
    result = json.loads((tmp_path / "out" / "cells" / CELL / "result.json").read_text())
    assert result["resumed"] == 1 and result["training"]["env_steps"] >= 100_000


@pytest.mark.slow
def test_a_student_learns_from_the_final_policy_of_its_seeds_teacher(tmp_path):
    teachers = {"sigma_delta_converted": "mlp_ppo"}
    (tmp_path / "taught.yaml").write_text(
        json.dumps({"agents": [*teachers, "mlp_ppo"], "teachers": teachers})
    )
    more = ("--budget", "env_steps=5120", "--out", tmp_path / "out")
    done = processes.run(ROOT / "scripts" / "compare.py", tmp_path / "taught.yaml", *SMALL, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = tmp_path / "out" / "cells"
    [result] = (cells / "Isaac-Cartpole.sigma_delta_converted.seed0").glob("run/*/*/*/result.json")
    learned = json.loads(result.read_text())["distillation"]
    [teacher] = (cells / "Isaac-Cartpole.mlp_ppo.seed0").glob("run/*/*/*")
    assert Path(learned["teacher"]).parent == teacher
    assert abs(learned["student_return"] - learned["teacher_return"]) < 2 * learned["teacher_std"]


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_in_the_middle_finishes_all_cells(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: the extra 'ray'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    out = tmp_path / "out"
    names = [f"Isaac-Cartpole.{agent}.seed0" for agent in ("lif_ppo", "mlp_ppo")]
    try:
        more = ["--engine", "ray", "--ray_address", cluster.address, "--budget", "env_steps=150000"]
        with started(out, "lif_ppo,mlp_ppo", *more) as command:
            command.until(lambda: all(share(out, name) > 0.0 for name in names))
            cluster.remove_node(nodes[0], allow_graceful=False)
            done = command.finished()
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads((out / "cells" / name / "result.json").read_text()) for name in names]
    assert sorted(result["resumed"] for result in results) == [0, 1]
    assert sorted(starts(out, name, "train") for name in names) == [1, 2]


@pytest.mark.parametrize(
    ("on_cuda", "given", "expected"),
    [(False, (1,), (1.0, 0.0)), (False, (4,), (4.0, 0.0)), (True, (1,), (1.0, 1.0)), (True, (4,), (4.0, 4.0)),
     (True, (1, 2.0, 0.25), (2.0, 0.25)), (True, (2, 1.0, 3.0), (1.0, 3.0))],
)  # fmt: skip
def test_a_cell_takes_a_core_and_a_gpu_for_each_of_its_processes(on_cuda, given, expected):
    options = dict(zip(("distributed", "cell_cpus", "cell_gpus"), given, strict=False))
    assert ExecutionOptions(**options).compute_cell_share(on_cuda) == expected


def test_less_than_a_gpu_for_each_process_is_refused():
    with pytest.raises(UserError, match="--cell_gpus 1: --distributed 4 .* give 4"):
        ExecutionOptions(distributed=4, cell_gpus=1.0).compute_cell_share(on_cuda=True)


GIVEN = ["--agents", "lif_ppo", *SMALL]
REFUSED = {
    "unknown agent": (["--agents", "lif_ppo,mlp_poo"], ["'mlp_poo'", "mean 'mlp_ppo'"]),
    "unknown task": (["--tasks", "Isaac-Cartpoll-v0"], ["'Isaac-Cartpoll-v0'", "Isaac-Cartpole"]),
    "no seed range": (["--seeds", "9-0"], ["seeds", "'9-0'", "lower seed first"]),
    "no cells": (["--agents", ""], ["--agents", "give at least one"]),
    "unknown budget": (["--budget", "steps=3"], ["'steps'", "mean 'env_steps'"]),
    "unknown condition": (["--conditions", "nominal,psuh"], ["'psuh'", "mean 'push'"]),
    "unknown option varied": (["--vary", "agent.network.stpes=2,4"], ["stpes", "mean 'steps'"]),
    "unknown option": (["agent.network.stpes=2"], ["stpes", "mean 'steps'"]),
    "unknown engine": (["--engine", "slurm"], ["slurm", "local"]),
    "no number of cores": (["--cell_cpus", "nan"], ["--cell_cpus: nan", "finite, at least 0"]),
    "less than no GPU": (["--cell_gpus", "-1"], ["--cell_gpus: -1", "at least 0"]),
    "a cluster without its engine": (
        ["--ray_address", "auto"],
        ["--ray_address auto", "no effect with --engine local", "ray"],
    ),
    "cores without their engine": (["--cell_cpus", "4"], ["--cell_cpus 4", "no effect"]),
    "no study file": (["nowhere.yaml"], ["nowhere.yaml", "No such file"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_comparison_that_is_none_is_refused_in_one_line(case, tmp_path, capsys):
    more, words = REFUSED[case]
    line = refused(compare, [*GIVEN, *more, "--out", tmp_path / "out"], capsys)
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_many_cells_is_short(tmp_path, capsys):
    assert compare([*GIVEN, "--seeds", "0-99", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert ["100", "0"] in [line.split()[2:4] for line in lines], "a line per agent and task"


def test_a_dry_run_shows_every_command_and_writes_nothing(tmp_path, capsys):
    assert compare([*GIVEN, "--seeds", "0-2", "--dry-run", "--verbose", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("scripts/train.py") == 3 and said.count("scripts/evaluate.py") == 4
    assert "remaining time: about" in said and "seeds.yaml" not in said
    assert not (tmp_path / "out").exists()
    uses = tmp_path / "seeds.yaml"
    uses.write_text("tasks: {Isaac-Cartpole: [{study: first, use: choosing, seeds: 2-3, why: a rate}]}")
    assert compare([*GIVEN, "--seeds", "0-1", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    line = "Isaac-Cartpole: - {study: out, use: testing, seeds: 0-1}"
    assert f"add to {uses}" in (said := capsys.readouterr().out) and line in said
    again = refused(compare, [*GIVEN, "--seeds", "0-2", "--dry-run", "--out", tmp_path / "out"], capsys)
    assert "seeds: 2 of Isaac-Cartpole: choosing in first (a rate)" in again


def test_what_the_folders_study_keeps_is_said(tmp_path, capsys):
    given = {"agents": "lif_ppo,mlp_ppo", "tasks": "cartpole,ant", "seeds": "0-3", "num_envs": 64}
    held = study.choose_baseline(study.build_study("study", given))
    comparison.plan_study(held, tmp_path, ExecutionOptions(device="cpu")).write()
    fewer = ["--agents", "lif_ppo", "--tasks", "ant", "--seeds", "1,4", "--num_envs", "64", "--dry-run"]
    assert compare([*fewer, "--out", str(tmp_path)]) == 0
    output = capsys.readouterr()
    lines = [line for line in (output.out + output.err).splitlines() if " kept from " in line]
    kept = {"agents": "mlp_ppo", "tasks": "cartpole", "seeds": "0,2-3"}
    assert [line.split(" kept")[0] for line in lines] == [f"{key}: {text}" for key, text in kept.items()]


def test_a_dry_run_refuses_what_the_study_itself_would_refuse(tmp_path, capsys):
    held = {"agents": "lif_ppo", "tasks": "cartpole", "seeds": "0-2", "num_envs": 64, "episodes": 2}
    same = study.build_study("study", {**held, "conditions": "nominal,push"}).to_dict()
    cell = tmp_path / "out" / "cells" / "Isaac-Cartpole.lif_ppo.seed0"
    cell.mkdir(parents=True)
    (cell / "result.json").write_text(json.dumps({"hash": "0" * 16}), encoding="utf-8")
    (tmp_path / "out" / "study.json").write_text(json.dumps(same), encoding="utf-8")
    line = refused(compare, [*GIVEN, "--seeds", "0-2", "--dry-run", "--out", tmp_path / "out"], capsys)
    assert "seed0/result.json" in line and "provenance: none" in line


def test_the_first_line_of_every_study_that_ships_is_its_question():
    found = {*(ROOT / "studies").glob("*.yaml"), *(ROOT / "studies").glob("*/study.yaml")}
    found -= {ROOT / "studies" / "seeds.yaml"}
    assert len(found) >= 2
    for path in found:
        schema, first = path.read_text(encoding="utf-8").splitlines()[:2]
        assert schema.startswith("# yaml-language-server: $schema=") and first.startswith("question: "), path
        assert "?" in study.read_study(path, {"tuning": ""}).question  # whose tuning may not have ended


def test_a_study_that_an_earlier_version_finished_is_as_it_was_and_not_gone_on_with(tmp_path):
    asked = study.build_study(
        "out", {"agents": "lif_ppo", "tasks": "cartpole", "seeds": "0-1", "num_envs": 64}
    )
    place = ExecutionOptions(device="cpu")
    cells = comparison.plan_study(study.choose_baseline(asked), tmp_path, place).cells
    for cell in cells:
        finish(tmp_path / "cells" / cell.name, cell.name, cell.earlier_hash)
    held = comparison.plan_study(study.choose_baseline(asked), tmp_path, place)
    held.check()
    assert not held.remaining and [cell.hash for cell in held.cells] == [cell.earlier_hash for cell in cells]
    more = comparison.plan_study(study.choose_baseline(asked.with_changes(seeds=(0, 1, 2))), tmp_path, place)
    with pytest.raises(UserError, match="result.json: provenance: none"):
        more.check()


def test_a_plan_that_prices_an_ann_as_a_chip_for_spikes_is_refused(tmp_path):
    plan = {"comparisons": [["lif_ppo", "mlp_ppo"]], "endpoints": [{"energy_per_metre": "loihi"}]}
    given = {"agents": "lif_ppo,mlp_ppo", "tasks": "ant", "seeds": "0-1", "num_envs": 64, "plan": plan}
    asked = study.choose_baseline(study.build_study("out", given))
    with pytest.raises(UserError, match="plan.endpoints: .*'loihi' given; allowed for the ANN 'mlp_ppo'"):
        comparison.plan_study(asked, tmp_path, ExecutionOptions(device="cpu"))


@pytest.mark.parametrize("endpoint", ["metres", "velocity_error", {"energy_per_metre": "fp32_sram"}])
def test_a_plan_whose_endpoint_the_task_does_not_measure_is_refused(tmp_path, endpoint):
    plan = {"comparisons": [["lif_ppo", "mlp_ppo"]], "endpoints": [endpoint]}
    given = {"agents": "lif_ppo,mlp_ppo", "tasks": "cartpole", "seeds": "0-1", "num_envs": 64, "plan": plan}
    asked = study.choose_baseline(study.build_study("out", given))
    with pytest.raises(UserError, match="plan.endpoints: '.*' given; Isaac-Cartpole does not"):
        comparison.plan_study(asked, tmp_path, ExecutionOptions(device="cpu"))


def test_a_study_with_a_plan_and_tuned_values_is_planned_as_a_whole(tmp_path):
    """The shipped plan of the ant, with the one tuning that has ended."""
    tuning = {"mlp_ppo": str(ROOT / "studies/ant_pilot/tuning")}
    asked = study.read_study(ROOT / "studies/ant_matched/study.yaml", {"tuning": tuning})
    made = comparison.plan_study(
        comparison.merge_study(asked, tmp_path), tmp_path, ExecutionOptions(device="cpu")
    )
    assert made.study.plan is not None and made.study.plan.seeds == tuple(range(5, 15))
    trained = [cell for cell in made.cells if cell.trains_agent]
    assert len(trained) == 5 * 10 and {cell.physics for cell in trained} == {"mujoco"}
    tuned = {cell.agent for cell in trained if cell.base_hash is not None}
    assert tuned == {"mlp_ppo"}
