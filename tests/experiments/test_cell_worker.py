"""A cell's steps run as processes that end with it; a failed step leaves its last message, an interrupted one resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spiky_rl.config import files
from spiky_rl.experiments.run import cell_worker, cells
from spiky_rl.experiments.run.cell_worker import StepFailed, StepInterrupted
from spiky_rl.learners.common import processes
from tests.experiments.results import TRUTHS, cell_of, finish
from tests.experiments.test_grid import cells as planned

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds."""


def run(folder: Path, code: str, asked=()) -> None:
    with cells.lock_cell(folder) as lock:
        cell_worker.run_step("test", [sys.executable, "-c", code], folder, lock, list(asked))


def test_a_step_writes_what_it_says_into_the_log(tmp_path):
    run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    said = (tmp_path / "log.txt").read_text()
    assert "out\n" in said and "err\n" in said and sys.executable in said


def test_a_step_that_raises_is_reported_with_its_tracebacks_last_lines(tmp_path):
    run(tmp_path, "print('an earlier step')")
    with pytest.raises(StepFailed) as failure:
        run(tmp_path, "for i in range(100): print('line', i)\nraise ValueError('the reason')")
    lines = str(failure.value).splitlines()
    assert lines[0] == "the test ended with exit code 1"
    assert lines[-1] == "ValueError: the reason"
    assert "an earlier step" not in str(failure.value)
    assert len(lines) == 2 + cell_worker.ERROR_LINES


def test_a_step_that_is_killed_says_by_which_signal(tmp_path):
    with pytest.raises(StepFailed, match="signal SIGKILL"):
        run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_a_step_is_not_begun_when_a_stop_was_asked_for(tmp_path):
    with pytest.raises(StepInterrupted):
        run(tmp_path, "print('never')", [signal.SIGINT])
    assert not (tmp_path / "log.txt").exists()


def test_a_student_without_a_trained_teacher_fails_and_names_it(tmp_path):
    cell = planned()[2].model_copy(update={"teacher": "Isaac-Cartpole.mlp_ppo.seed0"})
    with pytest.raises(StepFailed, match="^teacher: Isaac-Cartpole.mlp_ppo.seed0 "):
        cell_worker.find_teacher_checkpoint(cell, tmp_path)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(folder: Path) -> bool:
    """Whether no process holds the lock of the cell in ``folder``."""
    try:
        with cells.lock_cell(folder, wait=False):
            return True
    except BlockingIOError:
        return False


def test_a_killed_command_takes_its_cells_and_their_steps_with_it(tmp_path):
    """Three generations, as compare.py, a cell and its training are: the first is killed."""
    generation = (
        "import subprocess, sys, time, os\n"
        "from spiky_rl.learners.common.processes import die_with_parent\n"
        "depth, parent = int(sys.argv[1]), int(sys.argv[2])\n"
        "die_with_parent(parent)\n"
        "if depth: subprocess.Popen([sys.executable, __file__, str(depth - 1), str(os.getpid())])\n"
        f"open(os.path.join({str(tmp_path)!r}, str(depth)), 'w').write(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    script = tmp_path / "generation.py"
    script.write_text(generation)
    process = subprocess.Popen([sys.executable, str(script), "2", str(os.getpid())])
    until(lambda: all((tmp_path / str(i)).exists() and (tmp_path / str(i)).read_text() for i in range(3)))
    pids = [int((tmp_path / str(i)).read_text()) for i in range(3)]
    assert all(alive(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(alive(pid) for pid in pids))


WORKER = """
import os, sys, time
from pathlib import Path
from spiky_rl.experiments.run import cells
from spiky_rl.learners.common import processes

folder, keeps_on = Path(sys.argv[1]), sys.argv[2:] == ["--keep"]
cells.share_lock(folder)
if not keeps_on:
    processes.setup_distributed_env(True)
(folder / f"worker{os.environ['RANK']}.part").write_text(str(os.getpid()))
os.rename(folder / f"worker{os.environ['RANK']}.part", folder / f"worker{os.environ['RANK']}")
time.sleep(120)
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FEW = ["-c", "import subprocess, sys, os; [subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True,"
       " env={**os.environ, 'RANK': str(i), 'LOCAL_RANK': str(i), 'WORLD_SIZE': '2', 'MASTER_ADDR': 'x', 'MASTER_PORT': '1'})"
       " for i in range(2)]; import time; time.sleep(120)"]  # fmt: skip


def workers_of(folder: Path, starter: list[str], *words: str) -> tuple[subprocess.Popen, list[int]]:
    """A process that works a step of the cell in ``folder`` by ``starter``, and numbers of the processes that this started."""
    (folder / "worker.py").write_text(WORKER)
    line = [sys.executable, *starter, str(folder / "worker.py"), str(folder), *words]
    code = (
        "import sys; from pathlib import Path; from spiky_rl.experiments.run import cells, cell_worker\n"
        "with cells.lock_cell(Path(sys.argv[1])) as lock:\n"
        "    cell_worker.run_step('training', sys.argv[2:], Path(sys.argv[1]), lock, [])\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code, str(folder), *line], cwd=ROOT)
    paths = [folder / f"worker{rank}" for rank in range(2)]
    until(lambda: all(path.exists() for path in paths))
    return command, [int(path.read_text()) for path in paths]


@pytest.mark.parametrize(
    "starter", [FEW, pytest.param(TORCHRUN, marks=pytest.mark.slow)], ids=["short", "torchrun"]
)
def test_processes_of_a_distributed_training_end_with_a_killed_command(starter, tmp_path):
    command, workers = workers_of(tmp_path, starter)
    with pytest.raises(BlockingIOError), cells.lock_cell(tmp_path, wait=False):
        pass
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    until(lambda: not any(alive(pid) for pid in workers))
    until(lambda: is_free(tmp_path))  # the starter of the workers may end after them


def test_a_cell_is_held_until_the_last_process_of_its_training_has_ended(tmp_path):
    command, workers = workers_of(tmp_path, FEW, "--keep")  # as if the kernel took its time to end them
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    try:
        for worker in workers:
            with pytest.raises(BlockingIOError), cells.lock_cell(tmp_path, wait=False):
                pass
            os.kill(worker, signal.SIGKILL)
            until(lambda worker=worker: not alive(worker))
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)
    with cells.lock_cell(tmp_path, wait=False):
        pass


def test_a_process_whose_starter_has_ended_before_it_could_ask_ends_at_once():
    code = "from spiky_rl.learners.common import processes; processes.setup_distributed_env(True); print('goes on')"
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for starter, said in ((os.getpid(), "goes on\n"), (2**22 + 1, "")):
        environment = {**os.environ, **variables, processes.STARTER: str(starter)}
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (
            (0, said) if said else (processes.PARENT_ENDED_EXIT_CODE, "")
        )


def a_cell(folder: Path, **more) -> Path:
    """A cell whose training and evaluation fail at once, on an override that is none."""
    cell = planned()[-1]
    own = {"task": "cartpole", "agent": "lif_ppo", "device": "cpu", "overrides": ("nowhere=1",), "spec": {}}
    given = cell.specification.model_copy(update=own)
    # another task than the planned one
    cell = cell.model_copy(update={"hash": "a" * 16, "task_hash": None, "specification": given, **more})
    files.write_json(folder / "cell.json", cell.model_dump(by_alias=True))
    return folder


HELD = cell_of("lif_ppo", "cartpole", 0, {}, ("nominal",), TRUTHS["lif_ppo"])
"""A cell's result."""
TRAINED = {
    "outcome": "finished",
    "curve": HELD["curve"],
    **{key: HELD["training"][key] for key in cell_worker.TRAINING_FIELDS},
    "provenance": {
        "kernels": "a" * 16,
        "threads": 2,
        "omp_num_threads": "2",
        "commit": "c" * 40,
        "compiler": None,
    },
}
EVALUATED = {
    **HELD["evaluation"],
    **{key: HELD[key] for key in cell_worker.EVALUATION_FIELDS if key in HELD},
    "physics": "mujoco",
    "provenance": {**TRAINED["provenance"], "commit": "d" * 40},
}
DAMAGED = ("", '{"outcome": "fin', "[]", "null", '{"outcome": "finished"}', "[" * 100_000)


def a_run(folder: Path, name: str, *checkpoints: bool) -> Path:
    """A run of a cell with checkpoints, whole or of 0 bytes."""
    run = folder / "run" / "rsl_rl" / "cartpole" / name
    run.mkdir(parents=True)
    for index, whole in enumerate(checkpoints):
        path = run / f"model_{50 * index}.pt"
        path.touch()
        if whole:
            torch.save({"actor_state_dict": {}, "critic_state_dict": {}, "iter": index, "infos": None}, path)
    return run


@pytest.mark.parametrize(
    ("checkpoints", "can_go_on"), [((), False), ((True,), True), ((True, False), True), ((True, True, False, False), True)]
)  # fmt: skip
def test_a_training_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path, checkpoints, can_go_on):
    run = a_run(tmp_path, "first", *checkpoints)
    assert cell_worker.move_damaged_runs(tmp_path, "rsl_rl") == can_go_on
    assert run.is_dir()
    said = (tmp_path / "log.txt").read_text() if False in checkpoints else ""
    assert said.count("or damaged") == checkpoints.count(False)


def test_the_newest_run_is_the_last_to_begin_though_the_clock_was_set_back(tmp_path):
    for hour, name in ((1, "2026-10-25_02-50-00"), (2, "2026-10-25_02-10-00")):  # as summer time ends
        run = a_run(tmp_path, name, True)
        files.write_json(
            run / "run.json", {"task": "cartpole", "created_at": f"2026-10-25T0{hour}:00:00+00:00"}
        )
        files.write_json(run / "progress.json", {"share": hour / 4, "steps_per_second": 1.0})
    assert [run.name[11:16] for run in cell_worker.list_runs(tmp_path)] == ["02-50", "02-10"]
    assert cell_worker.find_latest_checkpoint(tmp_path, "rsl_rl") == run / "model_0.pt"
    progress = cells.read_progress(tmp_path)
    assert progress is not None and progress.share == 0.5


@pytest.mark.parametrize("whole", [True, False], ids=["resumed", "begun anew"])
def test_an_evaluation_does_not_outlive_the_policy_that_it_measured(tmp_path, monkeypatch, whole):
    def end(*_):
        raise StepInterrupted

    monkeypatch.setattr(cell_worker, "run_step", end)
    a_run(tmp_path, "first", whole, False)
    files.write_json(tmp_path / "evaluation.json", EVALUATED)
    with pytest.raises(StepInterrupted):
        cell_worker.train(planned()[-1], tmp_path, tmp_path, 0, [])
    assert not (tmp_path / "evaluation.json").exists()


def test_runs_without_a_whole_checkpoint_are_put_aside_and_kept(tmp_path):
    for name in ("run.damaged", "run.damaged1"):
        a_run(tmp_path, "first", False)
        a_run(tmp_path, "second", False, False)
        assert not cell_worker.move_damaged_runs(tmp_path, "rsl_rl")
        assert len(list(tmp_path.glob(f"{name}/*/*/*/model_*.pt"))) == 3
        assert not (tmp_path / "run").exists()
    assert "the training starts again" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_cell_with_a_damaged_newest_checkpoint_is_not_blocked(tmp_path, whole):
    folder = a_cell(tmp_path / "cell")
    run = a_run(folder, "first", whole, False)
    assert worked(folder) == cell_worker.FAILED  # on its override
    log = (folder / "log.txt").read_text()
    assert f"{run / 'model_50.pt'}: not a checkpoint, or damaged" in log
    assert "cli.cell train" in log and ("--checkpoint latest" in log) == whole


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_cell_that_goes_on_from_another_begins_with_its_newest_checkpoint_that_is_whole(tmp_path, whole):
    folder = a_cell(tmp_path / "cell", goes_on="before")
    run = a_run(tmp_path / "cells" / "before", "first", whole, False)
    assert worked(folder) == cell_worker.FAILED  # on its override
    log = (folder / "log.txt").read_text()
    assert (f"--checkpoint {run / 'model_0.pt'}" in log) == whole
    assert ("starts from the beginning" in log) != whole


def test_a_finished_training_whose_final_policy_is_damaged_has_not_finished(tmp_path):
    run = a_run(tmp_path, "first", True, False)
    files.write_json(run / "result.json", TRAINED)
    assert cell_worker.read_finished_training(tmp_path) == TRAINED
    assert cell_worker.move_damaged_runs(tmp_path, "rsl_rl")
    assert cell_worker.read_finished_training(tmp_path) is None
    assert json.loads((run / "result.lost.json").read_text()) == TRAINED


@pytest.mark.parametrize(
    ("runs", "resumed", "seconds"),
    [
        (((), (True,)), 0, 3.0),  # killed while the simulator started
        (((True,), (), (True,)), 1, None),
        (((True,), ()), 1, None),  # resumed when all iterations were done
    ],
)
def test_a_training_that_starts_anew_is_not_resumed(tmp_path, runs, resumed, seconds):
    for index, checkpoints in enumerate(runs):
        run = a_run(tmp_path, f"run{index}", *checkpoints)
        files.write_json(run / "run.json", {})
    files.write_json(run / "result.json", TRAINED)
    files.write_json(tmp_path / "cpu.json", {"seconds": 3.0})
    made = cell_worker.build_result(planned()[-1], tmp_path, TRAINED, EVALUATED)
    assert made.resumed == resumed
    assert made.training is not None and made.training.seconds_cpu == seconds


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_files_of_a_cell_are_as_if_they_were_not_there(tmp_path, text):
    run = a_run(tmp_path, "first", True)
    for path in (
        run / "result.json",
        run / "progress.json",
        tmp_path / "evaluation.json",
        tmp_path / "cpu.json",
    ):
        path.write_text(text)
    files.write_json(run / "run.json", {})
    assert cell_worker.read_finished_training(tmp_path) is None
    assert cell_worker.read_mapping(tmp_path / "evaluation.json", cell_worker.EVALUATION_FIELDS) is None
    assert cells.read_progress(tmp_path) is None
    made = cell_worker.build_result(planned()[-1], tmp_path, TRAINED, EVALUATED)
    assert made.training is not None and made.training.seconds_cpu is None and made.resumed == 0
    assert made.registered == "" and made.training.worlds_reset == 0, "of an earlier version"
    named, trained = "Isaac-Cartpole of Isaac Lab 3.0.0", {**TRAINED, "worlds_reset": 3}
    made = cell_worker.build_result(planned()[-1], tmp_path, trained, {**EVALUATED, "registered": named})
    assert made.training is not None and made.training.worlds_reset == 3 and made.registered == named


def test_the_machine_is_named_with_the_cards_that_were_used(monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CELLS", "3")
    plain = cell_worker.describe_machine()
    assert plain.endswith("3 cells at once") and f"{len(os.sched_getaffinity(0))} cores" in plain
    assert (
        cell_worker.describe_machine(["NVIDIA A", "NVIDIA B", "NVIDIA A"])
        == f"{plain}, 2 x NVIDIA A, 1 x NVIDIA B"
    )
    assert cell_worker.list_gpu_names("cpu", 4) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_a_cells_cards_have_their_names():
    assert cell_worker.list_gpu_names("cuda:0", 1) == [torch.cuda.get_device_name(0)]


WAITS = """
import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(int(number)))
print("ready", "now", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(1.0)
sys.exit(f"got {got}")
"""


@pytest.mark.parametrize(
    ("group", "expected"), [([signal.SIGINT], [2]), ([], [15])], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_training_gets_one_stop_signal_however_the_command_is_stopped(tmp_path, group, expected):
    """The terminal sends Ctrl-C to all processes of a command, which itself sends SIGTERM to its cells."""
    code = (
        "import sys; from pathlib import Path; from spiky_rl.experiments.run import cells, cell_worker\n"
        "folder, asked = Path(sys.argv[1]), []\n"
        "cell_worker.set_stop_handler(lambda number, _: asked.append(number))\n"
        "with cells.lock_cell(folder) as lock:\n"
        "    cell_worker.run_step('training', [sys.executable, '-c', sys.argv[2]], folder, lock, asked)\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), WAITS],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "log.txt"
    until(lambda: log.exists() and "ready now" in log.read_text())
    for number in group:
        os.killpg(command.pid, number)
    time.sleep(0.1)
    command.terminate()
    command.wait(PATIENCE)
    assert f"got {expected}" in log.read_text()


def begun(folder: Path, **more) -> subprocess.Popen:
    """The worker of a cell, at work."""
    line = [sys.executable, "-m", "spiky_rl.experiments.run.cell_worker", folder, folder.parent]
    return subprocess.Popen([*map(str, line), str(os.getpid())], cwd=ROOT, **more)


def waits_for_a_lock(pid: int) -> bool:
    return any(f" {pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_stop_ends_the_wait_for_a_cell_that_another_command_works_on(tmp_path):
    with cells.lock_cell(tmp_path / "cell"):
        worker = begun(tmp_path / "cell")
        until(lambda: waits_for_a_lock(worker.pid))
        worker.terminate()
        assert worker.wait(PATIENCE) == cell_worker.INTERRUPTED


def test_a_cell_under_nohup_outlives_its_terminal(tmp_path):
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with cells.lock_cell(tmp_path / "cell"):
        worker = begun(tmp_path / "cell", **ignored)
        until(lambda: waits_for_a_lock(worker.pid))
        worker.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert worker.poll() is None
        worker.terminate()
        assert worker.wait(PATIENCE) == cell_worker.INTERRUPTED


def worked(folder: Path) -> int:
    return begun(folder).wait(timeout=800)


def test_a_finished_cell_is_left_alone(tmp_path):
    folder = a_cell(tmp_path / "cell")
    finish(folder, "cell", "a" * 16)
    before = sorted(path.name for path in folder.iterdir())
    assert worked(folder) == cell_worker.FINISHED
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "lock"])


def test_a_cell_whose_parent_ended_before_it_could_say_so_does_nothing(tmp_path):
    folder = a_cell(tmp_path / "cell")
    command = [sys.executable, "-m", "spiky_rl.experiments.run.cell_worker", str(folder), str(tmp_path), "1"]
    assert subprocess.run(command, check=False, timeout=800).returncode == cell_worker.INTERRUPTED
    assert [path.name for path in folder.iterdir()] == ["cell.json"]


@pytest.mark.slow
def test_a_cell_that_fails_leaves_an_error_with_the_reason_and_keeps_a_corrupt_result(tmp_path):
    folder = a_cell(tmp_path / "cell")
    (folder / "result.json").write_text("{")
    assert worked(folder) == cell_worker.FAILED
    text = (folder / "error.txt").read_text()
    assert text.startswith("the training ended with exit code 2") and "'nowhere=1' is not an override" in text
    assert (folder / "result.corrupt.json").read_text() == "{"
    assert not (folder / "result.json").exists()


def test_a_cell_of_an_earlier_version_says_how_it_is_written_anew(tmp_path):
    earlier = {
        "hash": "a" * 16,
        "kind": "trained",
        "processes": 1,
        "library": "rsl_rl",
        "train": ["--task", "cartpole"],
    }
    files.write_json(tmp_path / "cell" / "cell.json", earlier)
    assert worked(tmp_path / "cell") == cell_worker.FAILED
    assert (
        "an earlier version; run the study's command again" in (tmp_path / "cell" / "error.txt").read_text()
    )


@pytest.mark.slow
def test_a_training_that_ended_before_is_not_run_again(tmp_path):
    folder = a_cell(tmp_path / "cell")
    run_folder = folder / "run" / "rsl_rl" / "cartpole" / "first"
    files.write_json(run_folder / "result.json", TRAINED)
    assert worked(folder) == cell_worker.FAILED
    assert (folder / "error.txt").read_text().startswith("the evaluation ended with exit code 2")
    assert " train " not in (folder / "log.txt").read_text()
