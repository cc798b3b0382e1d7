"""Hostile names, numbers and folders: text stays text, and impossible input is refused in one line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from spiky_rl.cli.compare import compare
from spiky_rl.cli.report import report as report_command
from spiky_rl.experiments.analysis.outcome import analyze_study
from spiky_rl.experiments.report import pages
from spiky_rl.experiments.report.design import list_terms
from spiky_rl.experiments.report.hparams import write_hparams
from spiky_rl.experiments.report.sections import write_report
from spiky_rl.experiments.report.threats import build_threats_section
from spiky_rl.experiments.run.results import ResultsError, read_plan, read_results
from tests.cli.refusals import run_command
from tests.experiments.results import CARTPOLE, TRUTHS, change, dump, write_study

HOSTILE = "lif<script>alert(1)</script>$\\frac{$a|b`_"
AGENTS = ("mlp_ppo", HOSTILE)
CELL = f"{CARTPOLE}.mlp_ppo.seed0"
COMPARE = ["--agents", "lif_ppo,mlp_ppo", "--tasks", "cartpole", "--device", "cpu"]


def small(folder: Path) -> Path:
    """A study of two agents and two seeds."""
    return write_study(
        folder / "study", ("mlp_ppo", "lif_ppo"), (CARTPOLE,), range(2), conditions=("nominal", "push")
    )


def run(command, argv, capsys) -> tuple[object, list[str]]:
    """The exit code, and the lines of stderr."""
    return run_command(command, argv), capsys.readouterr().err.splitlines()


def test_names_of_html_tex_and_markdown_are_shown_as_they_are(tmp_path: Path):
    folder = write_study(
        tmp_path / "a <b>bold</b> study", AGENTS, (CARTPOLE,), range(2), conditions=("nominal", "push"),
        truths={"mlp_ppo": TRUTHS["mlp_ppo"], HOSTILE: TRUTHS["lif_ppo"]}, question="Why <img src=x>\n# not a title?",
    )  # fmt: skip
    plan = json.loads((folder / "plan.json").read_text())
    for index, cell in enumerate(plan["cells"]):  # as `compare.py` names their folders
        old, new = folder / "cells" / cell["cell"], f"cell{index}"
        if "script" in cell["cell"]:
            held = json.loads((old / "result.json").read_text())
            dump(folder / "cells" / new / "result.json", {**held, "cell": new})
            cell["cell"] = new
    dump(folder / "plan.json", plan)
    for page in write_report(folder):
        text = page.read_text(encoding="utf-8")
        outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert "<script>" not in outside and "<b>" not in outside and "<img" not in outside, page
        assert page.suffix == ".html" or "\n# not a title?" not in outside
        assert "lif&lt;script" in outside
    assert list((folder / "figures").glob("*.svg"))
    assert all("<script>" not in path.read_text() for path in (folder / "figures").glob("*.svg"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("< 0.001 [1, 2] lif_ppo", "< 0.001 [1, 2] lif_ppo"), ("<br/>", "&lt;br/>"), ("&lt;b>", "&amp;lt;b>"),
     ("[a](b)", "[a]\\(b)"), ("`a`*b*", "\\`a\\`\\*b\\*"), ("a\n# b", "a # b"), ("", ""), ("_a_b_ c_d", "\\_a_b\\_ c_d")],
)  # fmt: skip
def test_text_in_markdown_is_nothing_else(text, shown):
    assert pages.escape_text(text) == shown


def test_a_cell_keeps_its_lines_and_a_code_block_ends_where_it_should():
    assert pages.escape_cell("a|b\n<c>") == "a\\|b<br>&lt;c>"
    assert pages.make_fence("a") == "```" and pages.make_fence("a\n````\nb") == "`````"


def list_rows(folder: Path) -> dict[str, list[str]]:
    """The table of threats, by what they are."""
    return {what: told for what, *told in next(iter(build_threats_section(analyze_study(folder)))).rows}


def test_a_study_of_two_robots_or_two_cards_is_warned_of(tmp_path: Path):
    folder = small(tmp_path)
    assert not {"Robots", "Machines"} & list_rows(folder).keys()
    change(folder, CELL, "assets", "look-alikes, version 9")
    change(folder, CELL, "machine", "a processor, 4 cores, 1 cells at once, 1 x NVIDIA B")
    said = list_rows(folder)
    assert "look-alikes, version 9" in said["Robots"][0] and "not comparable" in said["Robots"][1]
    assert "NVIDIA B" in said["Machines"][0]
    assert "look-alikes, version 9" in dict(list_terms(analyze_study(folder)))["Robots"]


DAMAGED = {
    "a key": "NaN",
    "infinity": "Infinity",
    "a number beyond all": "1e308",
    "a whole number beyond all": "9" * 400,
    "a whole number of 5,000 digits": "9" * 5000,
    "text": '"high"',
    "a list": "[4.9]",
    "true": "true",
    "nothing": "null",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_result_with_a_value_that_is_none_is_named_and_left_out(tmp_path: Path, case):
    folder = small(tmp_path)
    path = folder / "cells" / CELL / "result.json"
    held = json.loads(path.read_text())
    held["evaluation"]["conditions"]["nominal"]["mean_return"] = "HERE"
    path.write_text(json.dumps(held).replace('"HERE"', DAMAGED[case]))
    (skipped,) = read_results(folder)[1]
    assert (skipped.cell, skipped.status) == (CELL, "corrupt")
    assert skipped.reason.startswith("result.json")


FOREIGN = [
    "",
    "{",
    "[]",
    "3",
    '{"version": 1}',
    '{"version": 2}',
    "[" * 100_000,
    '{"training": {}}',
    '{"training": []}',
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_foreign_result_is_named(tmp_path: Path, text):
    folder = small(tmp_path)
    (folder / "cells" / CELL / "result.json").write_text(text)
    (skipped,) = read_results(folder)[1]
    assert (skipped.cell, skipped.status) == (CELL, "corrupt")


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/b", "..", ""])
def test_a_cell_that_lies_outside_its_study_is_refused(tmp_path: Path, name):
    folder = small(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    plan["cells"][0]["cell"] = name
    dump(folder / "plan.json", plan)
    with pytest.raises(ResultsError, match="cells.0.cell: expected a folder's name"):
        read_plan(folder)


def test_a_report_of_such_a_plan_stays_in_its_folder(tmp_path: Path):
    folder = small(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    plan["cells"][0]["cell"] = "../../outside"
    dump(folder / "plan.json", plan)
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    write_hparams(folder)
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before


@pytest.mark.parametrize("text", FOREIGN)
def test_a_report_of_what_is_no_study_is_refused(tmp_path: Path, capsys, text):
    folder = small(tmp_path)
    (folder / "study.json").write_text(text)
    code, said = run(report_command, [folder], capsys)
    assert code == 2 and len(said) == 1 and "study.json" in said[0]
    assert not (folder / "report.md").exists()


PLACES = {
    "an absent folder": (lambda place: place / "absent", "no study.json"),
    "a file": (lambda place: place / "file", "no study.json"),
    "an empty folder": (lambda place: place, "no study.json"),
    "a name that is too long": (lambda place: place / ("x" * 300), "no study.json"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_report_of_no_folder_is_refused(tmp_path: Path, capsys, case):
    (tmp_path / "file").write_text("{}")
    place, words = PLACES[case]
    code, said = run(report_command, [place(tmp_path)], capsys)
    assert code == 2 and len(said) == 1 and words in said[0]


OUTS = {
    "a file": (lambda place: place / "file", ["--out", "is not a folder"]),
    "below a file": (lambda place: place / "file" / "deep" / "out", ["--out", "is not a folder"]),
    "a link to nothing": (lambda place: place / "link", ["--out", "is not a folder"]),
    "no place for files": (lambda place: Path("/proc/out"), ["--out", "cannot write to '/proc/out'"]),
    "a name that is too long": (lambda place: place / ("x" * 300), ["--out"]),
}


@pytest.mark.parametrize("case", OUTS)
def test_a_study_that_cannot_be_written_is_refused_before_anything_else(tmp_path: Path, capsys, case):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    place, words = OUTS[case]
    code, said = run(compare, [*COMPARE, "--out", place(tmp_path)], capsys)
    assert code == 2 and len(said) == 1, said
    for word in words:
        assert word in said[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_study_in_a_folder_without_permission_is_refused(tmp_path: Path, capsys):
    tmp_path.chmod(0o500)
    code, said = run(compare, [*COMPARE, "--out", tmp_path / "out"], capsys)
    assert code == 2 and len(said) == 1 and "Permission denied" in said[0]


FLAGS = {
    "a baseline that is no agent": (["--baseline", "gru_ppo"], ["baseline", "'gru_ppo'", "lif_ppo, mlp_ppo"]),
    "a negative seed": (["--seeds", "0,-1"], ["seeds", "'-1'"]),
    "10^30 seeds": (["--seeds", f"0-{10**30}"], ["seeds", "2^31"]),
    "10^30 episodes": (["--episodes", str(10**30)], ["--episodes", "between 1 and 100000"]),
    "10^30 environments": (["--num_envs", str(10**30)], ["--num_envs", "between 1 and 10000000"]),
    "10^30 cells at once": (["--parallel", str(10**30)], ["--parallel", "between 1 and 4096"]),
    "10^30 processes": (["--distributed", str(10**30)], ["--distributed", "between 1 and 4096"]),
    "a number of 5,000 digits": (["--parallel", "9" * 5000], ["--parallel", "whole number"]),
    "10^30 steps": (["--budget", "env_steps=1e30"], ["env_steps", "at most 1e+15"]),
    "no agents": (["--agents", ","], ["agents", "list of names"]),
    "an agent twice": (["--agents", "lif_ppo,lif_ppo"], ["agents", "'lif_ppo'", "twice"]),
    "a folder for a study": (["{folder}"], ["cannot read"]),
    "a study that is no text": (["{folder}/bytes.yaml"], ["bytes.yaml", "not valid YAML"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_command_line_that_is_no_study_is_refused_in_one_line(tmp_path: Path, capsys, case):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    given, words = FLAGS[case]
    line = [text.replace("{folder}", str(tmp_path)) for text in given]
    code, said = run(compare, [*COMPARE, *line, "--out", tmp_path / "out"], capsys)
    assert code == 2 and len(said) == 1, said
    for word in words:
        assert word in said[0]
    assert len(said[0]) < 6000 and not (tmp_path / "out").exists()
