"""Worker of one cell: ``python -m spiky_rl.experiments.run.cell_worker FOLDER OUT PARENT`` trains, evaluates and writes the result.

The steps are training and evaluation. Each runs in a process of its own, which ends with the process that started it, even if that one
is killed. A step whose outcome is in the folder already is skipped. If a crash or a full disk has damaged its files, it runs again from
the latest valid checkpoint.
"""

from __future__ import annotations

import datetime
import functools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.experiments.design.grid import EVALUATION, Cell
from spiky_rl.experiments.run import cells
from spiky_rl.experiments.run.cells import ERROR, LOG, RESULT
from spiky_rl.experiments.run.records import CellResult, TrainingRecord
from spiky_rl.experiments.run.results import parse_result
from spiky_rl.learners.common.processes import PARENT_ENDED_EXIT_CODE, STARTER, die_with_parent
from spiky_rl.run.provenance import PROVENANCE, Provenance, join_commits

FINISHED, FAILED, INTERRUPTED = 0, 1, PARENT_ENDED_EXIT_CODE
"""Exit codes. An interrupted cell exits like a process that has lost its parent: both can go on."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that request a stop; a step that received one exits with 128 plus its number."""
STEP_MODULE = "spiky_rl.cli.cell"
"""Module that runs a step as the main program of a process."""
CPU = "cpu.json"
"""File with the processor time of an uninterrupted training; unlike wall time it does not depend on other jobs of the machine."""
ERROR_LINES = 30
"""Number of lines from the end of the log in error.txt."""
TRAINING_FIELDS = tuple(key for key, field in TrainingRecord.model_fields.items() if field.is_required())
"""Fields of a training's result that every version has written and that the cell's result contains."""
EVALUATION_FIELDS = (
    "episodes", "conditions", "cost", "solved", "device", "assets", "physics", "versions", "provenance",
)  # fmt: skip
"""Fields of an evaluation's result that the cell's result contains."""


class StepFailed(Exception):
    """A step ended with an error; the message goes to error.txt."""


class StepInterrupted(Exception):
    """A step was asked to stop."""


def begin_step(parent: int) -> None:
    """Make this process end with its ``parent``, and the processes of a distributed training end with this one."""
    die_with_parent(parent)
    os.environ[STARTER] = str(os.getpid())


def run_cell(folder: Path, out: Path) -> int:
    """Run the cell in ``folder`` of the study in ``out`` to its end; return an exit code."""
    stop_signals: list[int] = []
    try:
        set_stop_handler(interrupt_wait)
        with cells.lock_cell(folder) as lock:
            set_stop_handler(lambda number, _: stop_signals.append(number))
            return run_locked_cell(folder, out, lock, stop_signals)
    except StepInterrupted:
        return INTERRUPTED


def set_stop_handler(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Set the ``handler`` of `STOP_SIGNALS`, except of ignored ones: nohup ignores SIGHUP."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def interrupt_wait(_number: int, _frame: FrameType | None) -> NoReturn:
    """Raise StepInterrupted, which ends the wait for a lock; ignore further signals."""
    set_stop_handler(signal.SIG_IGN)
    raise StepInterrupted


def run_locked_cell(folder: Path, out: Path, lock: int, stop_signals: list[int]) -> int:
    """Run the cell in ``folder``, whose ``lock`` is held; see `run_cell` and `train`. Raises StepInterrupted."""
    identity = cells.read_if_valid(folder / cells.CELL, cells.CellIdentity)
    if identity is not None and identity.hash and cells.is_finished(folder, identity.hash):
        return FINISHED
    moved_to = cells.move_damaged_result(folder)
    if moved_to is not None:
        append_log(folder, f"{RESULT} is not a result of this cell; kept as {moved_to.name}")
    (folder / ERROR).unlink(missing_ok=True)
    try:
        cell = cells.read_cell(folder)
        trained = train(cell, folder, out, lock, stop_signals) if cell.trains_agent else None
        evaluated = evaluate(folder, lock, stop_signals)
        result = build_result(cell, folder, trained, evaluated)
    except (StepFailed, UserError) as failure:
        files.write_text(folder / ERROR, f"{failure}\n")
        return FAILED
    files.write_json(folder / RESULT, result.model_dump(by_alias=True, exclude_unset=True))
    return FINISHED


def train(cell: Cell, folder: Path, out: Path, lock: int, stop_signals: list[int]) -> dict[str, Any]:
    """Return the training's result, stored or new; an interrupted training resumes.

    The training inherits the file descriptor ``lock`` of the cell's lock. ``stop_signals`` are the stop signals that this process has received;
    its signal handler appends to them.
    """
    trained = read_finished_training(folder)
    if trained is not None and read_mapping(folder / EVALUATION, EVALUATION_FIELDS) is not None:
        return trained
    # the evaluation still needs the final policy, so a training with a damaged last checkpoint does not count as finished
    can_resume = move_damaged_runs(folder, cell.library)
    trained = read_finished_training(folder)
    if trained is not None:
        return trained
    arguments = ["train", str(folder)]
    if can_resume:
        arguments += ["--checkpoint", "latest"]
    elif cell.goes_on:
        checkpoint = find_latest_checkpoint(out / "cells" / cell.goes_on, cell.library)
        if checkpoint is not None:
            arguments += ["--checkpoint", str(checkpoint)]
        else:
            append_log(
                folder, f"{cell.goes_on} left no valid checkpoint; the training starts from the beginning"
            )
    elif cell.teacher:
        arguments += ["--teacher", str(find_teacher_checkpoint(cell, out))]
    command = [sys.executable, "-m", STEP_MODULE, *arguments]
    if cell.processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(cell.processes)]
        command = [sys.executable, *torchrun, "-m", STEP_MODULE, *arguments, "--distributed"]
    (folder / EVALUATION).unlink(missing_ok=True)  # of an earlier policy
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_step("training", command, folder, lock, stop_signals)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files.write_json(folder / CPU, {"seconds": seconds})
    trained = read_finished_training(folder)
    if trained is None:
        raise StepInterrupted  # a stop request ended the training, which kept a checkpoint
    return trained


def read_finished_training(folder: Path) -> dict[str, Any] | None:
    """Return the result of the finished training in a cell's ``folder``; None if there is none."""
    for path in sorted(cells.find_run_files(folder, "result.json")):
        result = read_mapping(path, (*TRAINING_FIELDS, "curve", "provenance"))
        if result is not None and result.get("outcome") == "finished":
            return result
    return None


def move_damaged_runs(folder: Path, library: str) -> bool:
    """Move the damaged parts of the trainings in a cell's ``folder`` away; return whether a training of ``library`` can resume.

    A run with a damaged last checkpoint counts as unfinished, because its final policy is lost: its result is renamed. If no run has a
    valid checkpoint, their folder is renamed to ``run.damaged``, and the training starts again.
    """

    def handle_damaged(path: Path) -> None:
        append_log(folder, f"{path}: not a checkpoint, or damaged")
        result = path.parent / RESULT
        if result.exists():
            os.replace(result, path.parent / "result.lost.json")

    runs = list_runs(folder)
    if not runs:
        return False
    checkpoints = [find_valid_checkpoint(run, library, handle_damaged) for run in runs]
    if any(checkpoints):
        return True
    new_path = cells.move_away(folder / "run", "run.damaged")
    append_log(
        folder, f"no checkpoint is valid; the training starts again, its files are kept as {new_path.name}"
    )
    return False


def find_latest_checkpoint(folder: Path, library: str) -> Path | None:
    """Return the last valid checkpoint of ``library`` in a cell's ``folder``; None if there is none."""
    checkpoints = (find_valid_checkpoint(run, library) for run in reversed(list_runs(folder)))
    return next(filter(None, checkpoints), None)


def find_teacher_checkpoint(cell: Cell, out: Path) -> Path:
    """Return the final policy of a ``cell``'s teacher in the study's folder ``out``. Raises StepFailed if it has none."""
    folder = out / "cells" / cell.teacher
    checkpoint = find_latest_checkpoint(folder, cell.library)
    if checkpoint is None or read_finished_training(folder) is None:
        raise StepFailed(
            f"teacher: {cell.teacher} has no finished training; run the study again to repeat it"
        )
    return checkpoint


def list_runs(folder: Path) -> list[Path]:
    """Return the runs with checkpoints in a cell's ``folder``, the newest last, by the times in their manifests."""
    runs = {path.parent for path in cells.find_run_files(folder, "model_*.pt")}
    if not runs:
        return []

    from spiky_rl.run.run_folders import get_creation_time

    return sorted(runs, key=lambda run: (get_creation_time(run), run))


def find_valid_checkpoint(
    run: Path, library: str, handle_damaged: Callable[[Path], None] = lambda path: None
) -> Path | None:
    """Return the last valid checkpoint of ``library`` in a ``run``; call ``handle_damaged`` with each later, damaged one."""
    from spiky_rl.learners.common.checkpoint_names import list_checkpoints
    from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint

    for path in reversed(list_checkpoints(run)):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except CheckpointError:
            handle_damaged(path)
    return None


def evaluate(folder: Path, lock: int, stop_signals: list[int]) -> dict[str, Any]:
    """Return the evaluation's result, stored or new; see `train` for the arguments."""
    path = folder / EVALUATION
    evaluated = read_mapping(path, EVALUATION_FIELDS)
    if evaluated is None:
        command = [sys.executable, "-m", STEP_MODULE, "evaluate", str(folder)]
        run_step("evaluation", command, folder, lock, stop_signals)
        evaluated = read_mapping(path, EVALUATION_FIELDS)
    if evaluated is None:
        raise StepFailed(f"the evaluation left no result in {path}")
    return evaluated


def read_mapping(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the mapping in ``path``; None if the file is missing, damaged or lacks one of the ``keys``."""
    content = cells.read_json(path)
    if isinstance(content, dict) and all(key in content for key in keys):
        return content
    return None


def run_step(name: str, command: Sequence[str], folder: Path, lock: int, stop_signals: list[int]) -> None:
    """Run a command with its output in the log.

    Args:
        name: Name of the step, for messages.
        folder: The cell's folder, with the log.
        lock: File descriptor of the cell's lock, inherited by the command.
        stop_signals: Received stop signals. If the first one is SIGTERM, the command gets a SIGTERM too. Any other signal reaches the whole
            process group by itself, and a second one would stop the command at once, without a checkpoint.

    Raises:
        StepFailed: The command failed; the message has the last lines of the log.
        StepInterrupted: A stop was requested.
    """
    if stop_signals:
        raise StepInterrupted
    append_log(folder, " ".join(command))
    start = (folder / LOG).stat().st_size
    with open(folder / LOG, "ab") as log:
        with subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn  # one thread here
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=(lock,),
            preexec_fn=functools.partial(begin_step, os.getpid()),
        ) as process:  # fmt: skip
            is_terminated = False
            while True:
                try:
                    code = process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if stop_signals[:1] == [signal.SIGTERM] and not is_terminated:
                        is_terminated = True
                        process.terminate()
    if stop_signals or code - 128 in STOP_SIGNALS:
        raise StepInterrupted
    if code != 0:
        with open(folder / LOG, "rb") as log:
            log.seek(start)
            output = log.read().decode("utf-8", "replace").splitlines()
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise StepFailed("\n".join([f"the {name} ended with {cause}", "", *output[-ERROR_LINES:]]))


def append_log(folder: Path, text: str) -> None:
    """Append a line with time and ``text`` to the log in a cell's ``folder``."""
    now = datetime.datetime.now().isoformat(" ", "seconds")
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"== {now} {text}\n")


def build_result(
    cell: Cell, folder: Path, trained: PlainMapping | None, evaluated: PlainMapping
) -> CellResult:
    """Return a cell's result from the results of its steps; ``trained`` is None for random actions. Raises ResultsError if they are incomplete."""
    attempts = count_attempts(folder)
    training, curve = None, None
    if trained is not None:
        # the file counts the last attempt alone
        cpu = read_mapping(folder / CPU, ("seconds",)) if attempts == 1 else None
        training = {**trained, "seconds_cpu": None if cpu is None else cpu["seconds"]}
        curve = trained["curve"]
    # files of earlier versions lack `registered`
    from_evaluation = {k: evaluated[k] for k in (*EVALUATION_FIELDS, "registered") if k in evaluated}
    data = {
        **cell.model_dump(by_alias=True),
        **from_evaluation,
        "provenance": combine_provenance(folder, trained, evaluated).model_dump(),
        "version": cells.VERSION,
        "outcome": "finished",
        "resumed": max(attempts - 1, 0),
        "training": training,
        "curve": curve,
        "evaluation": {"adapting": None, **evaluated},
        "machine": describe_machine(list_gpu_names(str(evaluated["device"]), cell.processes)),
        "date": datetime.date.today().isoformat(),
    }
    return parse_result(data)


def count_attempts(folder: Path) -> int:
    """Return the number of attempts of the training in a cell's ``folder`` whose work is in its final policy.

    An attempt that ended before its first checkpoint is none of them: the next one started anew.
    """
    # a training that resumes at its end leaves no checkpoint
    results = (
        (path.parent, read_mapping(path, ("outcome",))) for path in cells.find_run_files(folder, RESULT)
    )
    return len(
        {*list_runs(folder)} | {run for run, result in results if result and result["outcome"] == "finished"}
    )


def combine_provenance(folder: Path, trained: PlainMapping | None, evaluated: PlainMapping) -> Provenance:
    """Return the provenance of a cell's training, or of its evaluation if ``trained`` is None, as for random actions.

    Its commit names the commits of all attempts of the training and of the evaluation; it is None if one of them is unknown.
    """
    evaluation = Provenance.check("evaluation.provenance", evaluated["provenance"])
    training = evaluation
    if trained is not None:
        training = Provenance.check("training.provenance", trained["provenance"])
    paths = sorted(cells.find_run_files(folder, PROVENANCE))
    attempts = [cells.read_if_valid(path, Provenance) for path in paths]
    commits = [provenance and provenance.commit for provenance in (*attempts, training, evaluation)]
    return training.model_copy(update={"commit": join_commits(commits)})


def describe_machine(gpus: Sequence[str] = ()) -> str:
    """Return processor, number of usable cores, number of parallel cells, and the names of the used ``gpus``."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(models, "unknown processor")
    cores = len(os.sched_getaffinity(0))
    parallel_cells = os.environ.get("SPIKY_RL_CELLS", "1")
    parts = [processor, f"{cores} cores", f"{parallel_cells} cells at once"]
    parts += [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    return ", ".join(parts)


def list_gpu_names(device: str, processes: int) -> list[str]:
    """Return the names of the GPUs of a cell's ``processes``, one each, beginning with ``device``; empty on a CPU."""
    if not device.startswith("cuda"):
        return []
    import torch

    first = int(device.partition(":")[2] or 0)
    return [torch.cuda.get_device_name(index) for index in range(first, first + processes)]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    raise SystemExit(run_cell(Path(sys.argv[1]), Path(sys.argv[2])))
