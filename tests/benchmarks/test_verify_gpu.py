"""``verify_gpu.py``: one page of what came of the steps, whatever came of them; nothing starts where there is no GPU."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import verify_gpu
from benchmarks.run import Row
from benchmarks.verify_gpu import DRY, FULL, SHORT, Outcome, Step, run_all, steps, verify
from benchmarks.verify_page import BENCHES, TRAININGS, page
from benchmarks.verify_results import RESULTS, read_tests, read_training
from spiky_rl.cli import common
from spiky_rl.config.registry import UserError
from tests.kernels.cases import CUPY

ROOT = Path(__file__).parents[2]
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="6">
<testcase classname="tests.hosts.test_gpu" name="test_a[cuda:0-lif]"><properties>
<property name="launches of lif_ppo" value="10"/></properties></testcase>
<testcase classname="tests.hosts.test_gpu" name="test_b"/>
<testcase classname="tests.hosts.test_gpu" name="test_c"><failure message="x">y</failure></testcase>
<testcase classname="tests.hosts.test_gpu" name="test_c"><error message="at the end">y</error></testcase>
<testcase classname="tests.hosts.test_gpu" name="test_d"><skipped message="one | two devices">z</skipped></testcase>
<testcase classname="tests.hosts.test_gpu" name="test_e"><skipped message="one | two devices">z</skipped></testcase>
<testcase classname="" name="tests.file"><skipped message="collection skipped">('/a/file.py', 9, 'Skipped: no GL')</skipped>
</testcase>
</testsuite></testsuites>
"""


def row(contender: str, ms: float, **more) -> dict:
    made = Row(
        contender, "lif", "train", 4, 64, 1, 0.15, "cuda:0", 1, ms, 0.1, 8.0 / ms, 2**20, 1.0, 1.0, 0.5
    )
    return asdict(made) | more


def leave_training(folder: Path, learning: list[float]) -> None:
    """What a run leaves: event files and a result."""
    from torch.utils.tensorboard import SummaryWriter

    run = folder / "rsl_rl" / "ant" / "run"
    with SummaryWriter(str(run)) as writer:
        for index, seconds in enumerate(learning):
            for phase, value in {"simulation": 0.5, "inference": 0.25, "learning": seconds}.items():
                writer.add_scalar(f"Perf/seconds_{phase}", value, index)
    count = len(learning)
    result = {"outcome": "finished", "device": "cuda:0", "iterations": count, "env_steps": 4096 * 32 * count}
    result |= {"seconds_simulation": 0.5 * count, "seconds_inference": 0.25 * count}
    result |= {"seconds_learning": sum(learning), "mean_return_final": None, "firing_rate": 0.2}
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


@pytest.fixture
def left(tmp_path) -> Path:
    """A folder with what all steps leave."""
    (tmp_path / RESULTS["tests"]).write_text(JUNIT, encoding="utf-8")
    rows = [row("plain_loop", 8.0), row("spiky_rl", 2.0), row("norse", 4.0, failed="RuntimeError: no")]
    for name in BENCHES:
        (tmp_path / RESULTS[name]).write_text(json.dumps(rows), encoding="utf-8")
    leave_training(tmp_path / RESULTS["train_lif"], [9.0, 0.3, 0.3])
    leave_training(tmp_path / RESULTS["train_lif_equal"], [9.0, 0.2, 0.2])
    leave_training(tmp_path / RESULTS["train_mlp"], [1.0, 0.2, 0.2])
    (tmp_path / RESULTS["sanitizer"]).write_text(
        "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    )
    return tmp_path


def test_the_page_says_what_every_step_left(left):
    outcomes = {step.name: Outcome(0, 12.0) for step in steps(left, FULL)}
    text = page(left, outcomes | {"train_mlp": Outcome(1, 3.0)}, False, 4096, 100)
    for line in (
        "2 passed, 1 failed, 3 skipped.",
        "* `tests/hosts/test_gpu.py::test_c`",
        "| 2 | one \\| two devices |",
        "| 1 | no GL |",
        "**1 of 7 steps failed or were left out: train_mlp.**",
        "| launches of lif_ppo | 10 |",
        "| train_lif | done | 12 | train_lif.log |",
        "| train_mlp | failed: exit code 1 | 3 | train_mlp.log |",
        "* norse: RuntimeError: no",
        "compute-sanitizer: ERROR SUMMARY: 0 errors.",
        "## Isaac-Ant, 4,096 environments, 100 iterations",
        "|  | lif_ppo | lif_ppo, layers of mlp_ppo | mlp_ppo |",
        "| learning, s per iteration, median | 0.3000 | 0.2000 | 0.2000 |",
        "| learning, s in all | 9.60 | 9.40 | 1.40 |",
        "Learning time of lif_ppo / mlp_ppo, by medians: **1.50**.",
        "Learning time of lif_ppo, layers of mlp_ppo / mlp_ppo, by medians: **1.00**.",
    ):
        assert f"\n{line}\n" in text, line
    assert "dry run" not in text and str(left) not in text, "no path of this machine"
    assert [
        key for key in ("| GPU |", "| driver |", "| torch |", "| CUDA of torch |") if key not in text
    ] == []
    assert ["spiky_rl", "4.00"] in [line.split() for line in text.splitlines()] and "On `cuda:0`" in text


def test_a_page_of_a_dry_run_says_so_first(left):
    text = page(left, {}, True, DRY.environments, DRY.iterations)
    assert text.startswith("# A dry run") and "**A dry run on the CPU.**" in text


@pytest.mark.parametrize("damage", ["", "{", "<a", "[]", "[1]", '{"a": 1}'])
def test_what_a_step_did_not_leave_or_left_damaged_is_said_and_stops_no_other(damage, left):
    for name in RESULTS:
        path = left / RESULTS[name]
        if path.is_file():
            path.write_text(damage, encoding="utf-8")
    for path in left.glob("mlp_ppo/**/result.json"):
        path.write_text(damage, encoding="utf-8")
    for path in left.glob("lif_ppo/**/result.json"):
        path.unlink()
    text = page(left, {"tests": Outcome(None, 60.0)}, False, 4096, 100)
    assert "| tests | failed: time limit | 60 | tests.log |" in text
    assert text.count("No result (") == 4
    assert "`train_lif`: no result (" in text and "`train_mlp`: no result (" in text
    assert "lif_ppo, layers of mlp_ppo" in text and str(left) not in text


def test_the_newest_of_a_steps_runs_counts(left):
    other = left / RESULTS["train_mlp"] / "rsl_rl" / "ant" / "later"
    leave_training(other, [0.7])
    os.utime(next(other.glob("**/result.json")), (2e9, 2e9))
    assert read_training(left / RESULTS["train_mlp"]).iterations == 1


def test_a_step_that_fails_or_takes_too_long_stops_no_other_and_is_run_again(tmp_path):
    told = "import sys; print('here'); sys.exit({})"
    planned = [
        Step("fails", ("-c", told.format(3))),
        Step("sleeps", ("-c", "import time; time.sleep(99)"), limit=0.5),
        Step("runs", ("-c", told.format(0))),
    ]
    outcomes = run_all(planned, tmp_path, "cpu", 60.0)
    assert {name: outcome.code for name, outcome in outcomes.items()} == {
        "fails": 3,
        "sleeps": None,
        "runs": 0,
    }
    assert (tmp_path / "fails.log").read_text() == (tmp_path / "runs.log").read_text() == "here\n"
    assert "the time that it had" in (tmp_path / "sleeps.log").read_text()
    (tmp_path / "runs.log").unlink()
    again = run_all([Step("fails", ("-c", told.format(0))), planned[2]], tmp_path, "cpu", 60.0)
    assert {name: outcome.code for name, outcome in again.items()} == {"fails": 0, "runs": 0}
    assert not (tmp_path / "runs.log").exists(), "what ended well is not run again"


@pytest.mark.slow
def test_what_a_step_started_ends_with_it(tmp_path):
    late = f"import time; time.sleep(3.5); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}]); print('here', flush=True)"
    run_all([Step("starts", ("-c", f"{code}; import time; time.sleep(99)"))], tmp_path, "cpu", 3.0)
    assert "here" in (tmp_path / "starts.log").read_text()
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


def test_a_page_is_written_before_the_first_step_and_after_every_one(tmp_path):
    pages, code = [], "import sys; sys.exit({})"
    planned = [Step("one", ("-c", code.format(0))), Step("two", ("-c", code.format(1)))]
    run_all(planned, tmp_path, "cpu", 60.0, write_page=lambda outcomes: pages.append(dict(outcomes)))
    assert [list(outcomes) for outcomes in pages] == [[], ["one"], ["one", "two"]]
    kept = json.loads((tmp_path / verify_gpu.OUTCOMES).read_text())["steps"]
    assert [kept[name]["code"] for name in ("one", "two")] == [0, 1]


def test_a_step_whose_needs_are_missing_or_that_has_no_time_left_is_left_out(tmp_path, capsys):
    planned = [
        Step("lacks", ("-c", "1"), ("os", "no_such_module")),
        Step("lacks too", ("-c", "1"), prefix=("no-such-program", "-x")),
        Step("sleeps", ("-c", "import time; time.sleep(99)"), limit=1.0),
        Step("late", ("-c", "1")),
    ]
    outcomes = run_all(planned, tmp_path, "cpu", 60.0, seconds=2.0)
    assert [outcome.obstacle for outcome in outcomes.values()] == [
        *("not installed: no_such_module", "not installed: no-such-program", "", "no time left"),
    ]
    assert all(outcome.code is None for outcome in outcomes.values())
    assert [path.name for path in tmp_path.glob("*.log")] == ["sleeps.log"]
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "lacks: does not run, not installed: no_such_module", "before anything has run"


def test_the_short_run_fits_and_begins_with_the_kernels(tmp_path):
    planned = steps(tmp_path, SHORT)
    assert [step.name for step in planned][:3] == ["tests", "train_lif", "train_mlp"]
    assert sum(step.limit or 0 for step in planned) <= verify_gpu.SHORT_SECONDS == 540


def test_its_benchmarks_name_contenders_that_there_are():
    from benchmarks.entries import CONTENDERS

    line = SHORT.feedforward[SHORT.feedforward.index("--contenders") + 1 :]
    assert set(line) <= CONTENDERS.keys() and {"spiky_rl", "spikingjelly", "dense_floor"} <= set(line)
    assert "65536" in SHORT.feedforward and "65536" in FULL.feedforward


@pytest.mark.slow
def test_products_are_in_tf32(tmp_path):
    code = "import torch; print(torch.backends.cuda.matmul.allow_tf32)"
    run_all([Step("asks", ("-c", code))], tmp_path, "cpu", 60.0)
    assert (tmp_path / "asks.log").read_text() == "True\n"


@pytest.mark.slow
def test_the_tests_compare_products_and_convolutions_in_float32(tmp_path):
    asks = "import torch\ndef test_asks():\n    print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)\n"
    (tmp_path / "test_asks.py").write_text(asks, encoding="utf-8")
    line = (
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "tests.conftest",
        "--rootdir",
        str(tmp_path),
        str(tmp_path / "test_asks.py"),
    )
    run_all([Step("asks", line)], tmp_path, "cpu", 60.0)
    assert "False False" in (tmp_path / "asks.log").read_text()


def test_under_the_sanitizer_a_tensor_is_an_allocation_of_its_own(tmp_path):
    [step] = [step for step in steps(tmp_path, FULL) if step.name == "sanitizer"]
    line = " ".join(step.prefix)
    assert "--report-api-errors no" in line, "of calls that libraries try, and handle themselves"
    assert step.prefix[-2:] == ("--log-file", str(tmp_path / RESULTS["sanitizer"]))
    asks = replace(
        step, prefix=(), arguments=("-c", "import os; print(os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'])")
    )
    run_all([asks], tmp_path, "cpu", 60.0)
    assert (tmp_path / "sanitizer.log").read_text() == "1\n"


def test_the_sanitizer_looks_at_tests_of_each_of_its_files():
    for path in verify_gpu.SANITIZED_FILES:
        names = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        words = verify_gpu.SANITIZED.split(" or ")
        assert any(word in name for word in words for name in names), path
    texts = "".join((ROOT / path).read_text(encoding="utf-8") for path in verify_gpu.SANITIZED_FILES)
    assert all(word in texts for word in words), "no word is of a test that was renamed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--short"], "--short"),
        (["--dry-run", "--only", "sanitizer"], "--only sanitizer"),
    ],
)
def test_steps_that_there_are_not_are_refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    assert common.run(verify, [*arguments, "--folder", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_step_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        verify(["--only", "no_step"])
    error = capsys.readouterr().err
    assert all(name in error for name in RESULTS)


def test_only_the_named_steps_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    ran = []
    monkeypatch.setattr(verify_gpu, "run", lambda step, *_: ran.append(step.name) or Outcome(0, 1.0))
    monkeypatch.setattr(verify_gpu, "find_obstacle", lambda step: None)
    line = ["--dry-run", "--only", "train_mlp", "tests", "--folder", str(tmp_path / "new")]
    assert common.run(verify, line) == 0
    assert ran == ["tests", "train_mlp"] and (tmp_path / "new" / "gpu.md").is_file()


NOTES = {
    '{"device": "cpu", "steps": {"tests": {"cod": 0}}}': "is damaged",
    "{": "is damaged",
    '{"device": "cuda", "steps": {}}': "holds steps on cuda, not on cpu",
}


@pytest.mark.parametrize("note", NOTES)
def test_earlier_steps_that_are_damaged_or_of_another_device_are_refused(note, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / verify_gpu.OUTCOMES).write_text(note, encoding="utf-8")
    assert common.run(verify, ["--dry-run", "--folder", str(tmp_path)]) == 2
    assert NOTES[note] in capsys.readouterr().err


def test_steps_of_a_short_run_are_not_taken_for_those_of_a_whole_one(tmp_path):
    planned = [Step("train_mlp", ("-c", "pass"))]
    run_all(planned, tmp_path, "cpu", 60.0, is_short=True)
    with pytest.raises(UserError, match="holds steps of --short; name another folder"):
        run_all(planned, tmp_path, "cpu", 60.0)
    run_all(planned, tmp_path, "cpu", 60.0, is_short=True)


def test_steps_on_the_cpu_see_no_gpu(tmp_path):
    code = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    run_all([Step("asks", ("-c", code))], tmp_path, "cpu", 60.0)
    assert (tmp_path / "asks.log").read_text() == "''\n"


@pytest.mark.skipif(CUPY.get_unavailable_reason() is None, reason="there is a GPU here")
def test_without_a_gpu_it_refuses_in_one_line_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["--folder", str(tmp_path / "new"), "--out", str(tmp_path / "page.md")]
    assert common.run(verify, arguments) == 2
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and error.startswith("error: ") and "--dry-run" in error
    assert not out and list(tmp_path.iterdir()) == []


START = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing!r}))  # None: not to be found
sys.argv = ["verify_gpu.py", "--dry-run", "--out", "page.txt"]
runpy.run_path("scripts/verify_gpu.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("missing", "lines"),
    [
        (["pydantic_core", "annotated_types"], ["error: not installed: pydantic_core, annotated_types; "]),
        (["cupy", "isaaclab"], ["not installed: cupy, isaaclab; ", "error: --out 'page.txt'"]),
        (
            ["cupy", "sanitizer"],
            ["not installed: cupy; ", "not installed: compute-sanitizer", "error: --out"],
        ),
    ],
)
def test_its_first_lines_say_what_is_missing(missing, lines, tmp_path):
    program = tmp_path / "compute-sanitizer"
    if "sanitizer" not in missing:
        program.touch(mode=0o755)
    code = START.format(missing=missing)
    stacked = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PATH": str(tmp_path)}, **stacked
    )
    said = done.stdout.splitlines()
    assert done.returncode == 2 and len(said) == len(lines)
    assert all(line.startswith(start) for line, start in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--out", "docs/gpu.md"], "is the page of a GPU"),
        (["--dry-run", "--out", "docs/../docs/gpu.md"], "is the page of a GPU"),
        (["--dry-run", "--out", "page.txt"], "suffix '.txt'"),
    ],
)
def test_a_dry_run_never_writes_the_page_of_a_gpu(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert common.run(verify, arguments) == 2
    assert message in capsys.readouterr().err


def test_outside_of_a_checkout_it_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert common.run(verify, ["--dry-run"]) == 2
    assert "from the root of a checkout" in capsys.readouterr().err


def test_every_step_leaves_its_result_where_the_page_looks(tmp_path):
    assert {step.name for step in steps(tmp_path, FULL)} == RESULTS.keys()
    for size in (FULL, SHORT, DRY):
        for step in steps(tmp_path, size):
            line = (*step.prefix, *step.arguments)
            assert any(str(tmp_path / RESULTS[step.name]) in argument for argument in line)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_spec("isaaclab") is None, reason="Isaac Lab is not installed: the extra 'isaaclab'")
def test_a_dry_run_walks_all_steps_on_the_cpu(tmp_path):
    line = [
        "scripts/verify_gpu.py",
        "--dry-run",
        "--folder",
        tmp_path / "work",
        "--out",
        tmp_path / "page.md",
    ]
    done = subprocess.run(
        [sys.executable, *map(str, line)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    logs = "".join(path.read_text()[-1000:] for path in (tmp_path / "work").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "o result (" not in text and "failed: " not in text and str(tmp_path) not in text
    found = read_tests(tmp_path / "work" / RESULTS["tests"])
    assert found.passed == 0 and not found.failed and sum(found.skipped.values()) > 100
    assert all(f"| {training.title} |" in text for training in TRAININGS.values())
    assert "spikingjelly" in text and "spiky_rl_reservoir" in text
