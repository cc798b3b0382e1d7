"""Worker of one cell: ``python -m spiky_rl.experiments.run.cell_worker FOLDER OUT PARENT`` trains, evaluates and writes the result.

Each step runs in a process of its own and is skipped if its outcome is in the folder. All of them end with the process that started
them, even if it was killed. If a crash or a full disk has damaged the files of a step, it runs again from the latest valid checkpoint.
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
from typing import Any

from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.experiments.design.grid import EVALUATION, Cell
from spiky_rl.experiments.run import cells
from spiky_rl.experiments.run.cells import ERROR, LOG, RESULT
from spiky_rl.experiments.run.results import CellResult, TrainingRecord, parse_result
from spiky_rl.learners.common.processes import LOST, STARTER, die_with_parent
from spiky_rl.run.provenance import PROVENANCE, Provenance

FINISHED, FAILED, INTERRUPTED = 0, 1, LOST
"""Exit codes."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that request a stop; a step that received one exits with 128 plus its number."""
STEP = "spiky_rl.cli.cell"
"""Module that trains and evaluates in a process of its own."""
CPU = "cpu.json"
"""File with the processor time of an uninterrupted training; wall time depends on other jobs of the machine."""
TAIL = 30
"""Lines of the log in error.txt."""
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
    """Let this process end with its ``parent``, and the processes of a distributed training with this one."""
    die_with_parent(parent)
    os.environ[STARTER] = str(os.getpid())


def run_cell(folder: Path, out: Path) -> int:
    """Run the cell in ``folder`` of the study in ``out`` to its end; return an exit code."""
    stop_requested: list[int] = []
    for number in STOPS:
        signal.signal(number, lambda number, _: stop_requested.append(number))
    with cells.lock_cell(folder) as lock:
        own = cells.read_if_valid(folder / cells.CELL, cells.CellIdentity)
        if own is not None and own.hash and cells.is_finished(folder, own.hash):
            return FINISHED
        if aside := cells.move_damaged_result(folder):
            append_log(folder, f"{RESULT} is not a result of this cell; kept as {aside.name}")
        (folder / ERROR).unlink(missing_ok=True)
        try:
            cell = cells.read_cell(folder)
            trained = train(cell, folder, out, lock, stop_requested) if cell.is_trained else None
            measured = build_result(cell, folder, trained, evaluate(folder, lock, stop_requested))
        except StepInterrupted:
            return INTERRUPTED
        except (StepFailed, UserError) as failure:
            files.write_text(folder / ERROR, f"{failure}\n")
            return FAILED
        files.write_json(folder / RESULT, measured.model_dump(by_alias=True, exclude_unset=True))
        return FINISHED


def train(cell: Cell, folder: Path, out: Path, lock: int, stop_requested: list[int]) -> dict[str, Any]:
    """Return the training's result, stored or new; an interrupted training resumes.

    Args:
        folder: Its folder.
        out: The study's folder.
        lock: File descriptor of the cell's lock, inherited by the training.
        stop_requested: Received stop signals; grows while the training runs.
    """
    trained = read_finished_training(folder)
    if trained is not None and read_mapping(folder / EVALUATION, EVALUATION_FIELDS) is not None:
        return trained
    can_go_on = find_resumable(folder, cell.library)
    if (trained := read_finished_training(folder)) is not None:
        return trained
    arguments = ["train", str(folder)]
    if can_go_on:
        arguments += ["--checkpoint", "latest"]
    elif before := cell.goes_on:
        if (checkpoint := find_latest_checkpoint(out / "cells" / before, cell.library)) is not None:
            arguments += ["--checkpoint", str(checkpoint)]
        else:
            append_log(folder, f"{before} left no valid checkpoint; the training starts from the beginning")
    command = [sys.executable, "-m", STEP, *arguments]
    if cell.processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(cell.processes)]
        command = [sys.executable, *torchrun, "-m", STEP, *arguments, "--distributed"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_step("training", command, folder, lock, stop_requested)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files.write_json(folder / CPU, {"seconds": seconds})
    if (trained := read_finished_training(folder)) is None:
        raise StepInterrupted  # it was asked to stop and kept a checkpoint
    return trained


def read_finished_training(folder: Path) -> dict[str, Any] | None:
    """Return the result of the finished training in a cell's ``folder``; None if there is none."""
    for path in sorted(folder.glob("run/*/*/*/result.json")):
        held = read_mapping(path, (*TRAINING_FIELDS, "curve", "provenance"))
        if held is not None and held.get("outcome") == "finished":
            return held
    return None


def find_resumable(folder: Path, library: str) -> bool:
    """Return whether a training of ``library`` in ``folder`` can resume; move damaged parts away.

    A run with a damaged last checkpoint counts as unfinished, because its final policy is lost. Runs without any valid checkpoint move to
    ``run.damaged``, and the training starts again.
    """

    def report_lost(path: Path) -> None:
        append_log(folder, f"{path}: not a checkpoint, or damaged")
        if (held := path.parent / RESULT).exists():
            os.replace(held, path.parent / "result.lost.json")

    whole = [find_valid_checkpoint(run, library, report_lost) for run in list_runs(folder)]
    if not whole or any(whole):
        return bool(whole)
    taken = 0
    while (aside := folder / f"run.damaged{taken or ''}").exists():
        taken += 1
    os.replace(folder / "run", aside)
    append_log(
        folder,
        f"no checkpoint is valid; the training starts again, its files are kept as {aside.name}",
    )
    return False


def find_latest_checkpoint(folder: Path, library: str) -> Path | None:
    """Return the last valid checkpoint of ``library`` in a cell's ``folder``; None if there is none."""
    return next(
        filter(None, (find_valid_checkpoint(run, library) for run in reversed(list_runs(folder)))), None
    )


def list_runs(folder: Path) -> list[Path]:
    """Return the runs with checkpoints in a cell's ``folder``, the newest last."""
    return sorted({path.parent for path in folder.glob("run/*/*/*/model_*.pt")})


def find_valid_checkpoint(
    run: Path, library: str, lost: Callable[[Path], None] = lambda path: None
) -> Path | None:
    """Return the last valid checkpoint of ``library`` in a ``run``; call ``lost`` with each damaged one after it."""
    from spiky_rl.learners.common.checkpoint_names import list_checkpoints
    from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint

    for path in reversed(list_checkpoints(run)):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except CheckpointError:
            lost(path)
    return None


def evaluate(folder: Path, lock: int, stop_requested: list[int]) -> dict[str, Any]:
    """Return the evaluation's result, stored or new; see `train` for the arguments."""
    path = folder / EVALUATION
    if (evaluated := read_mapping(path, EVALUATION_FIELDS)) is None:
        run_step(
            "evaluation", [sys.executable, "-m", STEP, "evaluate", str(folder)], folder, lock, stop_requested
        )
        evaluated = read_mapping(path, EVALUATION_FIELDS)
    if evaluated is None:
        raise StepFailed(f"the evaluation left no result in {path}")
    return evaluated


def read_mapping(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the mapping in ``path``; None if the file is missing, damaged or lacks one of the ``keys``."""
    held = cells.read_json(path)
    return held if isinstance(held, dict) and all(key in held for key in keys) else None


def run_step(what: str, command: Sequence[str], folder: Path, lock: int, stop_requested: list[int]) -> None:
    """Run a command with its output in the log.

    Args:
        what: Name of the step, for messages.
        folder: The cell's folder, with the log.
        lock: File descriptor that it inherits.
        stop_requested: Received stop signals; SIGTERM is passed on.

    Raises:
        StepFailed: The command failed; the message has the last lines of the log.
        StepInterrupted: A stop was requested.
    """
    if stop_requested:
        raise StepInterrupted
    append_log(folder, " ".join(command))
    start = (folder / LOG).stat().st_size
    with open(folder / LOG, "ab") as log:
        with subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn  # one thread here
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=(lock,),
            preexec_fn=functools.partial(begin_step, os.getpid()),
        ) as process:  # fmt: skip
            told = False
            while True:
                try:
                    code = process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if (
                        signal.SIGTERM in stop_requested and not told
                    ):  # the others reach the whole group by themselves
                        told = True
                        process.terminate()
    if stop_requested or code - 128 in STOPS:
        raise StepInterrupted
    if code != 0:
        with open(folder / LOG, "rb") as log:
            log.seek(start)
            said = log.read().decode("utf-8", "replace").splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise StepFailed("\n".join([f"the {what} ended with {how}", "", *said[-TAIL:]]))


def append_log(folder: Path, text: str) -> None:
    """Append a line with time and ``text`` to the log in a cell's ``folder``."""
    now = datetime.datetime.now().isoformat(" ", "seconds")
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"== {now} {text}\n")


def build_result(
    cell: Cell, folder: Path, trained: PlainMapping | None, evaluated: PlainMapping
) -> CellResult:
    """Return a cell's result from the results of its steps. Raises ResultsError if they are incomplete.

    Args:
        folder: Its folder.
        trained: Result of its training; None for random actions.
        evaluated: Result of its evaluation.
    """
    attempts = len(list(folder.glob("run/*/*/*/run.json")))
    training, curve = None, None
    if trained is not None:
        counted = read_mapping(folder / CPU, ("seconds",)) if attempts == 1 else None
        training = {**trained, "seconds_cpu": None if counted is None else counted["seconds"]}
        curve = trained["curve"]
    data = {
        **cell.model_dump(by_alias=True),
        **{key: evaluated[key] for key in EVALUATION_FIELDS},
        **({"registered": evaluated["registered"]} if "registered" in evaluated else {}),
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


def combine_provenance(folder: Path, trained: PlainMapping | None, evaluated: PlainMapping) -> Provenance:
    """Return the provenance of a cell's training, or of its evaluation for random actions, with the commits of all of its processes.

    Args:
        folder: The cell's folder.
        trained: Result of its training; None for random actions.
        evaluated: Result of its evaluation.
    """
    last = Provenance.check("evaluation.provenance", evaluated["provenance"])
    own = last if trained is None else Provenance.check("training.provenance", trained["provenance"])
    parts = [cells.read_if_valid(path, Provenance) for path in sorted(folder.glob(f"run/*/*/*/{PROVENANCE}"))]
    commits = [part and part.commit for part in (*parts, own, last)]
    known = dict.fromkeys(commit for commit in commits if commit is not None)
    return own.model_copy(update={"commit": None if None in commits else ", ".join(known)})


def describe_machine(cards: Sequence[str] = ()) -> str:
    """Return processor, number of usable cores, number of parallel cells, and the names of the used GPUs, ``cards``."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    cores, at_once = len(os.sched_getaffinity(0)), os.environ.get("SPIKY_RL_CELLS", "1")
    counted = [f"{cards.count(name)} x {name}" for name in dict.fromkeys(cards)]
    return ", ".join(
        [names[0] if names else "unknown processor", f"{cores} cores", f"{at_once} cells at once", *counted]
    )


def list_gpu_names(device: str, processes: int) -> list[str]:
    """Return the name of a GPU for each of a cell's ``processes``, from the number of ``device`` on; empty on a CPU."""
    if not device.startswith("cuda"):
        return []
    import torch

    first = int(device.partition(":")[2] or 0)
    return [torch.cuda.get_device_name(index) for index in range(first, first + processes)]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    raise SystemExit(run_cell(Path(sys.argv[1]), Path(sys.argv[2])))
