"""Cells name what decides their bits; cells that differ in it are not mixed, and a report of mixed cells says so."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.design import grid, study
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.threats import build_threats_section
from spiky_rl.experiments.run import cell_requests, cell_worker, cells, tuning
from spiky_rl.experiments.run.comparison import StudyRun, warn_of_other_code
from spiky_rl.experiments.run.planning import ExecutionOptions
from spiky_rl.experiments.run.results import read_results
from spiky_rl.run import provenance
from tests.experiments.plans import plan
from tests.experiments.results import change, write_study
from tests.experiments.test_cell_worker import EVALUATED, TRAINED, a_run
from tests.experiments.test_grid import GIVEN, resolve

ASKED = study.build_study("mine", GIVEN)


def planned(threads=2):
    return grid.build_cells(ASKED, resolve, grid.CellResources(threads=threads))


def finish(folder: Path, cell: grid.Cell, **changed) -> Path:
    """As a cell's result says of itself; ``changed`` keys are removed where they are None."""
    own = json.loads(cell.model_dump_json(by_alias=True))
    held = {key: own[key] for key in ("hash", "provenance", "versions")} | changed
    path = folder / "cells" / cell.name / "result.json"
    files.write_json(path, {key: value for key, value in held.items() if value is not None})
    return path


def test_kernels_versions_and_on_a_cpu_threads_decide_a_cells_hash(monkeypatch):
    def hashes(**more):
        return {cell.hash for cell in planned(**more)}

    def on_gpu(*arguments):
        return dataclasses.replace(resolve(*arguments), device="cuda:0")

    before = hashes()
    assert hashes() == before and not hashes(threads=1) & before
    ones, others = (grid.build_cells(ASKED, on_gpu, grid.CellResources(threads=n)) for n in (1, 2))
    assert [cell.hash for cell in ones] == [cell.hash for cell in others]
    with monkeypatch.context() as patch:
        patch.setattr(grid, "compute_kernels_digest", lambda *_: "0" * 16)
        assert not hashes() & before
    monkeypatch.setattr(grid, "get_deciding_versions", lambda *_: {"torch": "1.0"})
    assert not hashes() & before


OTHERS = {
    "kernels": (
        "provenance",
        {"kernels": "0" * 16, "threads": 2},
        "provenance.kernels: 0000000000000000, now",
    ),
    "threads": ("provenance", {"threads": 1}, "provenance.threads: 1, now 2"),
    "a version": ("versions", {"torch": "1.0"}, "versions.torch: 1.0, now"),
    "no version": ("versions", {"torch": None}, "versions.torch: absent, now"),
    "no provenance": ("provenance", None, "provenance: none"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", ["result.json", "cell.json"])
def test_a_folder_with_cells_of_other_kernels_threads_or_versions_is_refused_by_key(tmp_path, case, name):
    key, value, said = OTHERS[case]
    cell = planned()[3]
    own = json.loads(cell.model_dump_json())[key]
    value = None if value is None else {k: v for k, v in {**own, **value}.items() if v is not None}
    path = finish(tmp_path, cell, hash="0" * 16, **{key: value})
    if name == "cell.json":  # it has begun
        path.rename(path.with_name(name))
        (path.parent / "run").mkdir()
    with pytest.raises(StudyError) as refused:
        cells.write_plan(tmp_path, ASKED, planned())
    assert str(path.with_name(name)) in str(refused.value) and said in str(refused.value)
    assert "\n" not in str(refused.value) and not (tmp_path / "plan.json").exists()


def test_a_build_of_the_same_version_and_another_commit_are_gone_on_with(tmp_path):
    cell = planned()[3]
    held = json.loads(cell.model_dump_json())
    versions = {name: f"{version}+cu130" for name, version in held["versions"].items()}
    finish(tmp_path, cell, provenance={**held["provenance"], "commit": "c" * 40}, versions=versions)
    cells.write_plan(tmp_path, ASKED, planned())


def test_finished_cells_of_another_commit_or_compiler_are_warned_of_while_cells_remain(
    tmp_path, caplog: pytest.LogCaptureFixture
):
    first, *others = planned()
    finish(
        tmp_path,
        first,
        provenance={"kernels": "", "commit": "c" * 40, "compiler": provenance.find_compiler_version()},
    )
    place: Any = None
    run = StudyRun(ASKED, tmp_path, place, place, [first, *others], {first.name})
    warn_of_other_code(run)
    assert f"{'c' * 40} in finished cells" in caplog.text and "compiler:" not in caplog.text
    caplog.clear()
    finish(
        tmp_path, first, provenance={"kernels": "", "commit": provenance.find_commit(), "compiler": "cc 1"}
    )
    warn_of_other_code(run)
    assert "cc 1 in finished cells" in caplog.text and "commit:" not in caplog.text
    caplog.clear()
    warn_of_other_code(dataclasses.replace(run, cells=[first]))
    assert not caplog.text, "nothing is mixed"


def test_a_cell_is_not_worked_with_other_threads_than_were_planned(tmp_path):
    threads = provenance.collect_provenance("cpu", "Isaac-Ant", "").threads
    assert threads is not None
    cell, *_ = planned(threads=threads)
    cells.write_cell(tmp_path, cell)
    assert cell_requests.read_checked_cell(tmp_path / "cells" / cell.name).hash == cell.hash
    cell, *_ = planned(threads=threads + 1)
    cells.write_cell(tmp_path, cell)
    with pytest.raises(UserError, match=f"provenance.threads: {threads} here, but {threads + 1} in the plan"):
        cell_requests.read_checked_cell(tmp_path / "cells" / cell.name)


def test_a_task_file_that_is_edited_while_a_study_runs_is_not_mixed_into_it(tmp_path):
    task = tmp_path / "mine.yaml"
    text = "id: Isaac-Cartpole\nnum_envs: {cpu: 4, cuda: 4}\nenv: {decimation: 2}\n"
    task.write_text(text, encoding="utf-8")
    asked = study.build_study("mine", {**GIVEN, "tasks": [str(task)]})
    for cell in grid.build_cells(asked, resolve, grid.CellResources())[:2]:
        cells.write_cell(tmp_path, cell)
        folder = tmp_path / "cells" / cell.name
        assert cell_requests.read_checked_cell(folder) == cell
        task.write_text(text.replace("2", "4"), encoding="utf-8")
        with pytest.raises(UserError, match=f"task file of {task}: .* here, but .* in the plan"):
            cell_requests.read_checked_cell(folder)
        task.write_text(f"{text}solved: 4.0\n", encoding="utf-8")
        cell_requests.read_checked_cell(folder)
        task.write_text(f"{text}leg: left_.*\n", encoding="utf-8")  # the joints that locked_leg locks
        with pytest.raises(UserError, match=f"task file of {task}: "):
            cell_requests.read_checked_cell(folder)
        task.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["graph.json", "net.nir", "parts.py:Mine"])
def test_a_file_that_an_agent_names_decides_the_hash_and_is_not_edited_between_plan_and_cell(tmp_path, name):
    path = tmp_path / name.partition(":")[0]

    def plan_cells():
        def naming(task, agent, variant):
            return plan(task, {"agent": agent, "graph": {"file": str(tmp_path / name)}})

        return grid.build_cells(ASKED, naming, grid.CellResources(threads=None))

    without_file = plan_cells()
    path.write_text("first", encoding="utf-8")
    before = plan_cells()
    cells.write_cell(tmp_path, before[-1])
    folder = tmp_path / "cells" / before[-1].name
    assert cell_requests.read_checked_cell(folder).hash == before[-1].hash
    path.write_text("second", encoding="utf-8")
    after = plan_cells()
    for cell, first, second in zip(without_file, before, after, strict=True):
        assert len({cell.hash, first.hash, second.hash}) == (3 if cell.trains_agent else 1)
    with pytest.raises(UserError, match=f"{path.name}.*: .* here, but .* in the plan"):
        cell_requests.read_checked_cell(folder)


def test_the_file_of_a_module_that_is_installed_in_place_has_a_digest_and_a_librarys_has_none(
    tmp_path, monkeypatch
):
    file = tmp_path / "in_place" / "parts.py"
    files.write_text(file.with_name("__init__.py"), "")
    files.write_text(file, "class Mine: pass\n")
    named = ["in_place.parts:Mine", "in_place.parts.Mine"]
    spec = [{"class_name": name} for name in named]
    assert provenance.hash_named_files({"parts": spec}) == {}
    monkeypatch.syspath_prepend(tmp_path)
    first = provenance.hash_named_files({"parts": spec})
    assert list(first) == named
    files.write_text(file, "class Mine: half = 0.5\n")
    second = provenance.hash_named_files({"parts": spec})
    assert not {*first.values()} & {*second.values()}
    for known in (
        "numpy.random:Generator",
        "json:JSONDecoder",
        "spiky_rl.neurons.lif:Lif",
        "none.such:X",
        "..:X",
    ):
        assert provenance.hash_named_files({"class_name": known}) == {}


@pytest.mark.parametrize(
    ("given", "parallel", "expected"), [("3", 1, 3), ("4,2", 1, 4), (None, 10**3, 1), ("many", 1, "many"), ("0", 1, "0")]
)  # fmt: skip
def test_a_place_knows_the_threads_of_its_cells(monkeypatch, given, parallel, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    place = ExecutionOptions(parallel=parallel)
    if isinstance(expected, int):
        assert place.threads == expected
    else:
        with pytest.raises(UserError, match=f"OMP_NUM_THREADS: '{expected}' given; allowed"):
            _ = place.threads


def test_a_result_has_the_provenance_of_its_training_and_all_commits(tmp_path):
    for name, commit in (("first", "b" * 40), ("second", TRAINED["provenance"]["commit"])):
        run = a_run(tmp_path, name, True)
        files.write_json(run / "run.json", {})
        files.write_json(run / provenance.PROVENANCE, {**TRAINED["provenance"], "commit": commit})
    made = cell_worker.build_result(planned()[-1], tmp_path, TRAINED, EVALUATED)
    assert made.provenance is not None and made.provenance.threads == TRAINED["provenance"]["threads"]
    assert made.provenance.commit == ", ".join(letter * 40 for letter in "bcd")
    random = cell_worker.build_result(planned()[0], tmp_path / "none", None, EVALUATED)
    assert random.provenance is not None and random.provenance.commit == "d" * 40


def told(folder: Path) -> dict[str, str]:
    """Evidence by threat."""
    block, *_ = build_threats_section(analyze_study(folder))
    return {row[0]: row[1] for row in block.rows}


ORIGIN = {"kernels": "a" * 16, "threads": 1, "omp_num_threads": "1", "commit": "c" * 40, "compiler": "g++ 12"}
MIXED = {
    "Commits": ({"commit": "d" * 40}, "cells: " + " / ".join((letter * 40) for letter in "cd")),
    "Kernels": ({"kernels": "b" * 16}, f"sources: {'a' * 16} / {'b' * 16}"),
    "Threads": ({"threads": 2}, "cells: 1 / 2"),
}


@pytest.fixture
def folder(tmp_path):
    return write_study(
        tmp_path / "mine", ["mlp_ppo", "lif_ppo"], ["Isaac-Cartpole"], range(2), conditions=["nominal"]
    )


def test_a_report_of_mixed_cells_names_what_is_mixed_and_one_of_earlier_ones_says_nothing(folder):
    assert not set(MIXED) & set(told(folder))
    results, _ = read_results(folder)
    assert all(result.provenance is None for result in results)
    for result in results:
        change(folder, result.cell, "provenance", ORIGIN)
    assert not set(MIXED) & set(told(folder))
    for threat, (changed, evidence) in MIXED.items():
        change(folder, results[0].cell, "provenance", {**ORIGIN, **changed})
        found = told(folder)
        assert found[threat] == evidence and set(MIXED) & set(found) == {threat}
    change(folder, results[0].cell, "provenance", None)
    assert all("not recorded" in told(folder)[threat] for threat in MIXED)


def test_a_tuning_is_not_gone_on_with_where_kernels_differ_or_are_not_known(tmp_path):
    from tests.experiments import tunings

    made = tunings.asked()
    tuning.write_tuning(tmp_path / "new", made, {"kernels on ant": "a"})
    tuning.write_tuning(tmp_path / "new", made, {"kernels on ant": "a"})
    with pytest.raises(StudyError, match="kernels on ant: 'a' when the tuning began, now 'b'"):
        tuning.write_tuning(tmp_path / "new", made, {"kernels on ant": "b"})
    tuning.write_tuning(tmp_path / "old", made, {"robots": "local"})
    with pytest.raises(StudyError, match="facts: no kernels"):
        tuning.write_tuning(tmp_path / "old", made, {"robots": "local", "kernels on ant": "a"})
