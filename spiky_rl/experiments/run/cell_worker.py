"""Works one cell to its end: ``python -m spiky_rl.experiments.run.cell_worker FOLDER OUT PARENT``; trains, evaluates, writes its result.

Each step is a process of its own, and each is skipped where its outcome lies in the folder already. All of them end when
the process that started them does, even if that was killed. Files that a crash or a full disk has damaged are not believed:
their step is done again, from the newest checkpoint that is whole.
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
from spiky_rl.config.options import UserError, get_options
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.experiments.run.results import CellResult, TrainingRecord, parse_result
from spiky_rl.experiments.design.grid import EVALUATION, Cell
from spiky_rl.experiments.run import cells
from spiky_rl.experiments.run.cells import ERROR, LOG, RESULT
from spiky_rl.learners.common.processes import LOST, STARTER, die_with_parent
from spiky_rl.run.provenance import PROVENANCE, Provenance

FINISHED, FAILED, INTERRUPTED = 0, 1, LOST
"""Exit codes."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask for an end; a step that took one ends with 128 more than its number."""
STEP = "spiky_rl.cli.cell"
"""Module that trains and evaluates, in a process of its own."""
CPU = "cpu.json"
"""Processor time of a training in one go, with its start; wall time says little where cells share a machine."""
TAIL = 30
"""Lines of the log that an error keeps."""
TRAINING_FIELDS = tuple(
    key for key in get_options(TrainingRecord) if key not in ("seconds_cpu", "worlds_reset")
)
"""Fields that a cell's result takes from its training's, and that every version has written."""
EVALUATION_FIELDS = (
    "episodes", "conditions", "cost", "solved", "device", "assets", "physics", "versions", "provenance",
)  # fmt: skip
"""Fields that it takes from its evaluation's."""


class StepFailed(Exception):
    """A step that ended with an error; the message is what error.txt says."""


class StepInterrupted(Exception):
    """A step that was asked to stop."""


def begin_step(parent: int) -> None:
    """End with the ``parent``, and tell the processes of a distributed training, where this starts some, to end with this one."""
    die_with_parent(parent)
    os.environ[STARTER] = str(os.getpid())


def run_cell(folder: Path, out: Path) -> int:
    """Bring the cell in ``folder`` of the study in ``out`` to its end; one of the exit codes."""
    asked: list[int] = []
    for number in STOPS:
        signal.signal(number, lambda number, _: asked.append(number))
    with cells.lock_cell(folder) as lock:
        own = cells.read_if_valid(folder / cells.CELL, cells.CellIdentity)
        if own is not None and own.hash and cells.is_finished(folder, own.hash):
            return FINISHED
        if aside := cells.move_damaged_result(folder):
            append_log(folder, f"{RESULT} is no result of this cell; kept as {aside.name}")
        (folder / ERROR).unlink(missing_ok=True)
        try:
            cell = cells.read_cell(folder)
            trained = train(cell, folder, out, lock, asked) if cell.is_trained else None
            measured = build_result(cell, folder, trained, evaluate(folder, lock, asked))
        except StepInterrupted:
            return INTERRUPTED
        except (StepFailed, UserError) as failure:
            files.write_text(folder / ERROR, f"{failure}\n")
            return FAILED
        files.write_json(folder / RESULT, measured.model_dump(by_alias=True, exclude_unset=True))
        return FINISHED


def train(cell: Cell, folder: Path, out: Path, lock: int, stop_requested: list[int]) -> dict[str, Any]:
    """The training's result, from an earlier attempt where that got so far; an interrupted one goes on.

    Args:
        cell: What is trained.
        folder: Its folder.
        out: The study's folder.
        lock: File descriptor of the cell's lock, for the training to inherit.
        asked: Signals that asked for an end, so far.
    """
    trained = finished_training(folder)
    if trained is not None and read_mapping(folder / EVALUATION, EVALUATION_FIELDS) is not None:
        return trained
    can_go_on = find_resumable(folder, cell.library)
    if (trained := finished_training(folder)) is not None:
        return trained
    arguments = ["train", str(folder)]
    if can_go_on:
        arguments += ["--checkpoint", "latest"]
    elif before := cell.goes_on:
        if (checkpoint := find_latest_checkpoint(out / "cells" / before, cell.library)) is not None:
            arguments += ["--checkpoint", str(checkpoint)]
        else:
            append_log(folder, f"{before} left no checkpoint that is whole; the training begins anew")
    command = [sys.executable, "-m", STEP, *arguments]
    if cell.processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(cell.processes)]
        command = [sys.executable, *torchrun, "-m", STEP, *arguments, "--distributed"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_step("training", command, folder, lock, stop_requested)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files.write_json(folder / CPU, {"seconds": seconds})
    if (trained := finished_training(folder)) is None:
        raise StepInterrupted  # it was asked to stop, and kept a checkpoint
    return trained


def finished_training(folder: Path) -> dict[str, Any] | None:
    """The result of the training in a cell's ``folder``, if it ran to its end."""
    for path in sorted(folder.glob("run/*/*/*/result.json")):
        held = read_mapping(path, (*TRAINING_FIELDS, "curve", "provenance"))
        if held is not None and held.get("outcome") == "finished":
            return held
    return None


def find_resumable(folder: Path, library: str) -> bool:
    """Whether a training of ``library`` in ``folder`` can go on from a checkpoint; what is damaged of it is put out of the way.

    A run whose last checkpoint is damaged has not finished, whatever its result says: its final policy is lost. Runs without
    any checkpoint that is whole are kept in ``run.damaged``, and training begins again.
    """

    def lost(path: Path) -> None:
        append_log(folder, f"{path}: no checkpoint, or a damaged one")
        if (held := path.parent / RESULT).exists():
            os.replace(held, path.parent / "result.lost.json")

    whole = [find_valid_checkpoint(run, library, lost) for run in list_runs(folder)]
    if not whole or any(whole):
        return bool(whole)
    taken = 0
    while (aside := folder / f"run.damaged{taken or ''}").exists():
        taken += 1
    os.replace(folder / "run", aside)
    append_log(
        folder,
        f"no checkpoint is whole; the training begins again, what there was is kept as {aside.name}",
    )
    return False


def find_latest_checkpoint(folder: Path, library: str) -> Path | None:
    """The last checkpoint in a cell's ``folder`` from which a training of ``library`` can go on."""
    return next(
        filter(None, (find_valid_checkpoint(run, library) for run in reversed(list_runs(folder)))), None
    )


def list_runs(folder: Path) -> list[Path]:
    """The runs in a cell's ``folder`` that left checkpoints, the newest last."""
    return sorted({path.parent for path in folder.glob("run/*/*/*/model_*.pt")})


def find_valid_checkpoint(
    run: Path, library: str, lost: Callable[[Path], None] = lambda path: None
) -> Path | None:
    """The last checkpoint of a ``run`` from which a training of ``library`` can go on; ``lost`` is called with each behind it."""
    from spiky_rl.learners.common.checkpoint_names import list_checkpoints
    from spiky_rl.learners.common.checkpoints import CheckpointError, read_checkpoint

    for path in reversed(list_checkpoints(run)):
        try:
            read_checkpoint(str(path), library=library)
            return path
        except CheckpointError:
            lost(path)
    return None


def evaluate(folder: Path, lock: int, asked: list[int]) -> dict[str, Any]:
    """The evaluation, from an earlier attempt where that got so far; ``folder``, ``lock`` and ``asked`` as for `train`."""
    path = folder / EVALUATION
    if (evaluated := read_mapping(path, EVALUATION_FIELDS)) is None:
        run_step("evaluation", [sys.executable, "-m", STEP, "evaluate", str(folder)], folder, lock, asked)
        evaluated = read_mapping(path, EVALUATION_FIELDS)
    if evaluated is None:
        raise StepFailed(f"the evaluation left no result in {path}")
    return evaluated


def read_mapping(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """The mapping in the file ``path``; None where there is none, or one that is damaged or lacks one of the ``keys``."""
    held = cells.read_json(path)
    return held if isinstance(held, dict) and all(key in held for key in keys) else None


def run_step(what: str, command: Sequence[str], folder: Path, lock: int, asked: list[int]) -> None:
    """Run a command, its output in the log. Raises Failed with the log's last lines, Interrupted where it was stopped.

    Args:
        what: It is, in a word for messages.
        command: Its line.
        folder: The cell's, with the log.
        lock: File descriptor that it inherits.
        asked: Signals that asked for an end; SIGTERM is passed on.
    """
    if asked:
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
                    if signal.SIGTERM in asked and not told:  # the others reach the whole group by themselves
                        told = True
                        process.terminate()
    if asked or code - 128 in STOPS:
        raise StepInterrupted
    if code != 0:
        with open(folder / LOG, "rb") as log:
            log.seek(start)
            said = log.read().decode("utf-8", "replace").splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise StepFailed("\n".join([f"the {what} ended with {how}", "", *said[-TAIL:]]))


def append_log(folder: Path, text: str) -> None:
    """Write ``text`` as a line of the log in a cell's ``folder``."""
    now = datetime.datetime.now().isoformat(" ", "seconds")
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"== {now} {text}\n")


def build_result(
    cell: Cell, folder: Path, trained: PlainMapping | None, evaluated: PlainMapping
) -> CellResult:
    """A cell's result, from what its steps measured. Raises ResultsError where that is not whole.

    Args:
        cell: What was planned.
        folder: Its folder.
        trained: Its training's result; None where actions were random.
        evaluated: Its evaluation's.
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
        "provenance": provenance_of(folder, trained, evaluated).model_dump(),
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


def provenance_of(folder: Path, trained: PlainMapping | None, evaluated: PlainMapping) -> Provenance:
    """Return a cell's provenance: that of its training, if it has one, with the commits of all of its processes in their order.

    Args:
        folder: The cell's.
        trained: Its training's result; None where actions were random.
        evaluated: Its evaluation's.
    """
    last = Provenance.check("evaluation.provenance", evaluated["provenance"])
    own = last if trained is None else Provenance.check("training.provenance", trained["provenance"])
    parts = [cells.read_if_valid(path, Provenance) for path in sorted(folder.glob(f"run/*/*/*/{PROVENANCE}"))]
    commits = [part and part.commit for part in (*parts, own, last)]
    known = dict.fromkeys(commit for commit in commits if commit is not None)
    return own.model_copy(update={"commit": None if None in commits else ", ".join(known)})


def describe_machine(cards: Sequence[str] = ()) -> str:
    """The processor, how many of its cores, how many cells at once, and the GPUs that were used, ``cards``."""
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
    """Names of the GPUs that a cell ran on: one for each of its ``processes``, from the ``device``'s number on; none on the CPU."""
    if not device.startswith("cuda"):
        return []
    import torch

    first = int(device.partition(":")[2] or 0)
    return [torch.cuda.get_device_name(index) for index in range(first, first + processes)]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    raise SystemExit(run_cell(Path(sys.argv[1]), Path(sys.argv[2])))
