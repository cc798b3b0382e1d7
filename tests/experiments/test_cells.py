"""A study's folder: written whole, worked by one process at a time, and never taken over by another study."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiky_rl.config import files
from spiky_rl.config.options import FileRecord
from spiky_rl.experiments.design import study
from spiky_rl.experiments.design.grid import StudyPlanFile
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.run import cell_requests, cells
from spiky_rl.experiments.run.results import parse_result, read_design
from tests.experiments.results import CARTPOLE, change, dump, finish, write_study
from tests.experiments.test_grid import GIVEN
from tests.experiments.test_grid import cells as planned

ASKED = study.build_study("mine", GIVEN)
ROBOTS = "robots"
"""Of the plans in `tests.experiments.plans`."""


@pytest.fixture
def folder(tmp_path):
    """With a study and its plan."""
    cells.write_plan(tmp_path, ASKED, planned())
    return tmp_path


def test_the_plan_names_every_cell_with_its_commands_and_hashes(folder):
    plan = json.loads((folder / "plan.json").read_text())
    assert [cell["cell"] for cell in plan["cells"]] == [cell.name for cell in planned()]
    assert all(cell["hash"] and cell["commands"] for cell in plan["cells"])
    assert all((folder / "cells" / cell["cell"] / "cell.json").is_file() for cell in plan["cells"])


def test_the_same_study_and_a_larger_one_may_use_the_folder_and_another_may_not(folder):
    assert cells.load_or_extend_study(folder, ASKED).to_dict() == ASKED.to_dict()
    more = study.build_study("mine", {**GIVEN, "seeds": "5"})
    assert cells.load_or_extend_study(folder, more).seeds == (0, 1, 2, 5)
    with pytest.raises(StudyError, match="budget"):
        cells.load_or_extend_study(folder, study.build_study("mine", {**GIVEN, "budget": "wall=3"}))
    with pytest.raises(StudyError, match="name"):
        cells.load_or_extend_study(folder, study.build_study("other", GIVEN))
    for key, text in (("tasks", "Isaac-Cartpole"), ("agents", "agents/lif_ppo.yaml")):
        values = [text, *GIVEN[key][1:]]
        with pytest.raises(
            StudyError, match=f"{key}: '{text}' given; the study in the folder has '{GIVEN[key][0]}'"
        ):
            cells.load_or_extend_study(folder, study.build_study("mine", {**GIVEN, key: values}))


def test_a_folder_with_cells_of_nobody_and_one_with_a_foreign_study_are_refused(folder):
    (folder / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="study.json: missing version, name, .*not a study of this version"):
        cells.load_or_extend_study(folder, ASKED)
    (folder / "study.json").unlink()
    os.mkfifo(folder / "study.json")
    with pytest.raises(PermissionError, match="it is not a regular file"):
        cells.load_or_extend_study(folder, ASKED)
    (folder / "study.json").unlink()
    with pytest.raises(StudyError, match="without study.json"):
        cells.load_or_extend_study(folder, ASKED)


def test_a_result_of_another_specification_is_not_written_over(folder):
    cell = planned()[3]
    held = json.loads((folder / "cells" / cell.name / "cell.json").read_text())
    files.write_json(folder / "cells" / cell.name / "result.json", {**held, "hash": "0" * 16})
    before = (folder / "plan.json").read_text()
    with pytest.raises(StudyError, match=f"{cell.name}.*hash: .*--out"):
        cells.write_plan(folder, ASKED, planned())
    assert (folder / "plan.json").read_text() == before


def test_a_training_that_began_as_something_else_is_not_gone_on_with(folder):
    cell, *_ = planned()
    changed = [cell.model_copy(update={"hash": "0" * 16})]
    cells.write_plan(folder, ASKED, changed)  # it has not begun: it will as what it is now
    cells.write_plan(folder, ASKED, planned())
    (folder / "cells" / cell.name / "run").mkdir()
    cells.write_plan(folder, ASKED, planned())
    with pytest.raises(StudyError, match=f"{cell.name}/cell.json: hash: "):
        cells.write_plan(folder, ASKED, changed)


def test_cells_of_another_leg_are_not_added_to_those_that_have_begun(folder):
    cell, *others = planned()
    cells.write_plan(folder, ASKED, [cell])
    (folder / "cells" / cell.name / "run").mkdir()
    edited = [each.model_copy(update={"task_hash": "0" * 16}) for each in (cell, *others)]
    with pytest.raises(StudyError, match=f"{cell.name}: task file: "):
        cells.write_plan(folder, ASKED, edited)


def test_an_evaluation_of_random_actions_is_not_taken_for_another_one(folder):
    random, changed = planned()[0], planned()[0].model_copy(update={"hash": "0" * 16})
    assert not random.trains_agent
    files.write_json(folder / "cells" / random.name / "evaluation.json", {})  # killed before its result
    cells.refuse_other_cells(folder, [random])
    with pytest.raises(StudyError, match=f"{random.name}/cell.json: hash: "):
        cells.refuse_other_cells(folder, [changed])


def test_only_a_complete_result_with_the_plans_hash_counts_and_a_corrupt_one_is_kept_aside(tmp_path):
    write_study(tmp_path, agents=("mlp_ppo",), tasks=(CARTPOLE,), seeds=(0,))
    cell = f"{CARTPOLE}.mlp_ppo.seed0"
    folder = tmp_path / "cells" / cell
    complete = json.loads((folder / "result.json").read_text())
    assert cells.is_finished(folder, complete["hash"]) and not cells.is_finished(folder, "b")
    damages = {
        "cell": "of another name",
        "training": None,
        "evaluation.conditions.nominal.mean_return": math.nan,
        "budget": {},
    }
    for number, (key, value) in enumerate(damages.items()):
        dump(folder / "result.json", complete)
        change(tmp_path, cell, key, value)
        damaged = (folder / "result.json").read_text()
        assert not cells.is_finished(folder, complete["hash"]), key
        assert cells.move_damaged_result(folder) == folder / f"result.corrupt{number or ''}.json"
        assert (folder / f"result.corrupt{number or ''}.json").read_text() == damaged
    assert cells.move_damaged_result(folder) is None and not cells.is_finished(folder, complete["hash"])


def test_a_cell_is_held_by_one_process_and_by_all_that_inherit_it(tmp_path):
    with cells.lock_cell(tmp_path) as lock:
        with pytest.raises(BlockingIOError), cells.lock_cell(tmp_path, wait=False):
            pass
        heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    try:
        with pytest.raises(BlockingIOError), cells.lock_cell(tmp_path, wait=False):
            pass
    finally:
        heir.communicate(b"\n")
    with cells.lock_cell(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_damaged_study_file_is_written_anew(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    assert cells.load_or_extend_study(tmp_path, ASKED) == ASKED
    cells.write_plan(tmp_path, ASKED, planned())
    assert json.loads((tmp_path / "study.json").read_text()) == ASKED.to_dict()


def test_cells_of_two_physics_do_not_stand_in_one_study(folder):
    done, *others = planned()
    # of a version that did not say what stepped its worlds
    finish(folder / "cells" / done.name, done.name, done.hash, assets=ROBOTS)
    cells.write_plan(folder, ASKED, planned())
    native = [cell.model_copy(update={"physics": "mujoco"}) for cell in planned()]
    said = f"{done.name}: physics: 'newton_mjwarp'.*'mujoco'; choose another --out"
    with pytest.raises(StudyError, match=said):
        cells.write_plan(folder, ASKED, native)
    assert cells.read_cell(folder / "cells" / others[0].name).physics == "newton_mjwarp"


def derive(found):
    """The same cells with robots of another version."""
    return [cell.model_copy(update={"assets": "robots of version 4"}) for cell in found]


def test_cells_of_two_robots_do_not_stand_in_one_study(folder):
    begun, done, *others = planned()
    finish(folder / "cells" / done.name, done.name, done.hash, assets=ROBOTS)
    (folder / "cells" / begun.name / "run").mkdir()
    cells.write_plan(folder, ASKED, planned())
    before = (folder / "cells" / begun.name / "cell.json").read_text()
    for cell in (done, begun):
        with pytest.raises(StudyError, match=f"{cell.name}: robots: '{ROBOTS}'.* --out") as error:
            cells.write_plan(folder, ASKED, derive([cell, *others]))
        assert "'robots of version 4'" in str(error.value)
    assert (folder / "cells" / begun.name / "cell.json").read_text() == before
    cells.write_plan(folder, ASKED, derive([done]))  # nothing is left to run, so nothing is mixed


def test_a_study_of_two_simulators_goes_on_though_each_has_its_robots(folder):
    own = [cell.model_copy(update={"assets": cell.task}) for cell in planned()]
    for task in {cell.task: cell for cell in own}.values():
        finish(folder / "cells" / task.name, task.name, task.hash, assets=task.task)
    cells.write_plan(folder, ASKED, own)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seeds", None, "missing seeds"),
        ("seeds", ["0", "x"], "seeds: 'x' given"),
        ("agents", [1], "agents: [1] given; allowed: a list of names"),
        ("budget", {"kind": "env_step", "amount": 1}, "budget: 'env_step' is not a kind of budget"),
        ("version", 2, "version: 2 is not allowed; choose from 1"),
    ],
)
def test_a_study_file_with_a_wrong_value_is_refused_by_file_and_key(folder, key, value, said):
    path = folder / "study.json"
    held = json.loads(path.read_text())
    held.pop(key)
    files.write_json(path, held | ({} if value is None else {key: value}))
    before = path.read_text()
    with pytest.raises(StudyError) as refused:
        cells.load_or_extend_study(folder, ASKED)
    assert str(refused.value).startswith(f"{path}: {said}") and "--out" in str(refused.value)
    assert path.read_text() == before


STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_the_studies_plans_and_results_on_the_disk_are_read_and_written_to_the_same_bytes(every):
    def again(found: FileRecord) -> str:
        return json.dumps(found.model_dump(by_alias=True, exclude_unset=True), indent=2) + "\n"

    designs = sorted(STUDIES.glob("*/study.json"))
    assert len(designs) > 5
    for path in designs:
        assert json.dumps(read_design(path.parent).to_dict(), indent=2) + "\n" == path.read_text()
    for path in (STUDIES / "ant" / "plan.json", STUDIES / "memory_pilot" / "plan.json"):
        assert again(StudyPlanFile.check("", json.loads(path.read_text()))) == path.read_text()
    results = [path for name in ("ant*", "memory_*") for path in STUDIES.glob(f"{name}/cells/*/result.json")]
    for path in sorted(results)[::every]:
        assert again(parse_result(json.loads(path.read_text()))) == path.read_text()


def test_a_cells_file_gives_the_cell_again(folder):
    for cell in planned():
        cell = cell.model_copy(update={"assets": ROBOTS, "goes_on": "before", "seconds": 60.0})
        cells.write_cell(folder, cell)
        assert cells.read_cell(folder / "cells" / cell.name) == cell


def test_a_cells_step_runs_in_its_own_folder_too(folder, monkeypatch):
    cell = planned()[-1].model_copy(update={"provenance": None})
    cells.write_cell(folder, cell)
    monkeypatch.chdir(folder / "cells" / cell.name)
    request, options = cell_requests.make_evaluation_request(Path("."))
    assert (request.log_root, options.out) == (Path("run"), Path("evaluation.json"))


def test_a_cell_is_evaluated_in_the_environment_of_its_training(folder):
    cell = planned()[0].model_copy(update={"provenance": None})
    overrides = ("agent.network.steps=2", "env.wind=1", "physics=mujoco")
    specification = cell.specification.model_copy(update={"overrides": overrides})
    cells.write_cell(folder, cell.model_copy(update={"specification": specification}))
    path = folder / "cells" / cell.name
    training, _ = cell_requests.make_training_request(path, None, None, distributed=False)
    evaluation, _ = cell_requests.make_evaluation_request(path)
    assert training.overrides == evaluation.overrides == overrides
    assert training.assets == evaluation.assets


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("specification.seed", "0", "specification.seed: expected a whole number, got '0'"),
        ("specification.sede", 0, "specification.sede: no such key; did you mean 'seed'?"),
        ("processes", None, "processes: expected a whole number, got nothing"),
        (
            "kind",
            "trainde",
            "kind: 'trainde' is not allowed; choose from trained, random; did you mean 'trained'?",
        ),
        ("budget", "env_step=1", "budget: 'env_step' is not a kind of budget; choose from env_steps"),
    ],
)
def test_a_cells_file_with_a_wrong_value_is_refused_by_file_and_key(folder, key, value, said):
    path = folder / "cells" / planned()[-1].name / "cell.json"
    held = json.loads(path.read_text())
    *above, last = key.split(".")
    (held[above[0]] if above else held)[last] = value
    files.write_json(path, held)
    with pytest.raises(StudyError) as refused:
        cells.read_cell(path.parent)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert str(refused.value).endswith("run the study's command again to rewrite it")
