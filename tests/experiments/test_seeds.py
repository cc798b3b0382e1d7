"""Seeds are used once: seeds of tuning or choosing are not tested on, unless the study gives a reason and its report repeats it."""

from pathlib import Path

import pytest
import yaml

from spiky_rl.config import files
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.design import seeds, study
from spiky_rl.experiments.design.study import StudyError
from spiky_rl.experiments.report.threats import build_reuse_notes
from spiky_rl.experiments.run import tuning
from spiky_rl.experiments.run.results import read_design
from tests.experiments.results import redesign, write_study
from tests.experiments.test_provenance import told

ROOT = Path(__file__).resolve().parents[2] / "studies"
USES = {
    "Isaac-Cartpole": [
        {"study": "early", "use": "testing", "seeds": "0-1"},
        {"study": "chosen", "use": "choosing", "seeds": "3-5", "why": "a rate"},
        {"study": "tuned/tuning", "use": "tuning", "seeds": 90000},
        {"study": "tuned", "use": "testing", "seeds": "5-6"},
        {"study": "late", "use": "choosing", "seeds": "6", "why": "a width"},
    ]
}


@pytest.fixture
def root(tmp_path):
    files.write_text(tmp_path / "seeds.yaml", yaml.safe_dump({"tasks": USES}))
    return tmp_path


def asked(given="0-2", **more):
    return study.build_study(
        "new", {"agents": "lif_ppo", "tasks": "Isaac-Cartpole-v0", "seeds": given, **more}
    )


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("new", "0-2", ""),
        ("new", "7,8", ""),
        ("new", "2-4", "seeds: 3-4 of Isaac-Cartpole: choosing in chosen (a rate)"),
        ("new", "90000", "seeds: 90000 of Isaac-Cartpole: tuning in tuned/tuning"),
        ("new", "6", "seeds: 6 of Isaac-Cartpole: choosing in late (a width)"),
        ("early", "0-1", ""),
        ("early", "0-3", "seeds: 3 of Isaac-Cartpole: choosing in chosen (a rate)"),  # two that it adds
        ("tuned", "6-7", ""),
        ("tuned", "6", ""),
        ("tuned", "5,6", "seeds: 5 of Isaac-Cartpole: choosing in chosen (a rate)"),
        ("late", "3-6", ""),
    ],
)
def test_a_study_that_tests_on_seeds_chosen_with_before_is_refused_by_seed_task_and_use(
    root, name, given, said
):
    if not said:
        seeds.refuse_reused_seeds(root / name, asked(given))
        return
    with pytest.raises(StudyError) as refused:
        seeds.refuse_reused_seeds(root / name, asked(given))
    assert str(refused.value).startswith(said) and "reused_seeds" in str(refused.value)
    seeds.refuse_reused_seeds(root / name, asked(given, reused_seeds="it is about them"))


def test_other_tasks_and_folders_without_the_file_around_them_are_free(root, tmp_path_factory):
    masked = study.build_study("new", {"agents": "lif_ppo", "tasks": "cartpole_masked", "seeds": "3"})
    seeds.refuse_reused_seeds(root / "new", masked)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "new"
    seeds.refuse_reused_seeds(elsewhere, asked("3"))
    assert seeds.list_missing_lines(elsewhere, asked("3")) == []


def test_the_line_that_the_file_lacks_is_told_and_is_what_it_takes(root):
    assert seeds.list_missing_lines(root / "early", asked("0-1")) == []
    for use, given in (("testing", "0-2"), ("tuning", "0,2,4-5"), ("tuning", "90000")):
        (line,) = seeds.list_missing_lines(root / "early", asked(given), use)
        task, _, entry = line.partition(": ")
        files.write_text(root / "more.yaml", yaml.safe_dump({"tasks": {task: yaml.safe_load(entry)}}))
        ((read,),) = seeds.read_uses(root / "more.yaml").values()
        assert (read.study, read.use, read.seeds) == ("early", use, study.parse_seeds(given))


WRONG = {
    "an unknown use": ({"use": "looking"}, "use: 'looking'"),
    "no seed": ({"seeds": "x"}, "seeds: 'x' given"),
    "a choice of nothing": ({"use": "choosing"}, "why: missing"),
    "another key": ({"sed": 1}, "sed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_on_seeds_with_a_wrong_value_is_refused_by_file_and_key(root, case):
    wrong, said = WRONG[case]
    entry = {"study": "a", "use": "testing", "seeds": 0} | wrong
    files.write_text(root / "seeds.yaml", yaml.safe_dump({"tasks": {"Isaac-Cartpole": [entry]}}))
    with pytest.raises(StudyError) as refused:
        seeds.read_uses(root / "seeds.yaml")
    assert str(refused.value).startswith(f"{root / 'seeds.yaml'}: ") and said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_report_says_which_seeds_were_used_before_and_why(root):
    folder = write_study(
        root / "new", ["mlp_ppo", "lif_ppo"], ["Isaac-Cartpole"], (1, 3), conditions=["nominal"]
    )
    redesign(folder, reused_seeds="so it is")
    found = told(folder)
    assert found["Seeds used for choosing"] == "3 of Isaac-Cartpole: choosing in chosen (a rate); so it is"
    assert found["Seeds tested before"] == "1 of Isaac-Cartpole: early"
    (block,) = build_reuse_notes(analyze_study(folder))
    assert "3 of Isaac-Cartpole: choosing in chosen" in block.text and "so it is" in block.text
    (root / "seeds.yaml").unlink()
    assert told(folder)["Seeds used for choosing"] == "so it is" and "Seeds tested before" not in told(folder)


def designs():
    """Folder, design and use of every study and tuning that is committed."""
    for path in sorted(ROOT.rglob("study.json")):
        yield pytest.param(path.parent, seeds.TESTING, id=path.parent.name)
    for path in sorted(ROOT.rglob("tuning.json")):
        yield pytest.param(path.parent, "tuning", id=f"{path.parent.parent.name}-tuning")


@pytest.mark.parametrize(("folder", "use"), [*designs()])
def test_every_study_and_tuning_is_in_the_file_on_seeds(folder, use):
    held = tuning.read_tuning(folder)
    design = read_design(folder) if held is None else held.study
    assert seeds.list_missing_lines(folder, design, use) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/study.yaml")), ids=lambda path: path.parent.name)
def test_every_study_that_tests_on_seeds_chosen_with_says_why_and_no_other_does(path):
    asked_for = study.read_study(path, {"tuning": ""})  # which may not have ended
    history = seeds.find_history(path.parent, asked_for, study.label_tasks(asked_for))
    assert bool(history.biased) is bool(asked_for.reused_seeds)


def test_every_folder_that_the_file_names_is_there_or_planned():
    named = {use.study for uses in seeds.read_uses(ROOT / seeds.FILE).values() for use in uses}
    assert all(
        (ROOT / name).is_dir() or (ROOT / name).parent.joinpath("study.yaml").is_file()
        for name in named - {"policies"}
    )
