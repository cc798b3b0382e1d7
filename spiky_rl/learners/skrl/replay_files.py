"""The replay buffer on disk: beside each numbered checkpoint, a file with the transitions since the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from skrl.memories.torch import Memory
from torch import Tensor

from spiky_rl.config.errors import get_error_text
from spiky_rl.config.options import FileRecord, option
from spiky_rl.learners.common.checkpoint_names import CheckpointError, read_iteration
from spiky_rl.learners.common.checkpoints import (
    CONTENT_ERRORS,
    check_tensor,
    read_unchecked_checkpoint,
    write_checkpoint,
)

FOLDER = "replay"
"""Folder of the files in a run folder. Each is called transitions_N.pt, for the checkpoint model_N.pt, and is no checkpoint itself."""


class UpdateCounters(FileRecord):
    """Counters of an off-policy agent, which decide when it makes its next gradient steps."""

    critic_updates: int = option(..., "gradient steps of the critics since the start of the training", low=0)
    due_updates: float = option(..., "part of the next gradient step that is due", low=0.0, below=1.0)


class ReplayFiles:
    """Writes the transitions that a training adds to a replay ``memory``, and deletes files whose transitions the memory has overwritten."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._folder: Path | None = None
        """Folder of the latest file."""
        self._steps_by_path: dict[Path, int] = {}
        """Control steps of the files in the folder that the memory still holds, the oldest first."""
        self._unsaved_steps = 0
        """Control steps in the memory since the latest file."""

    def count_step(self) -> None:
        """Count a control step of all environments that was added to the memory."""
        self._unsaved_steps += 1

    def write(self, checkpoint: Path, counters: UpdateCounters) -> None:
        """Write the file of a numbered ``checkpoint``; the first in a folder holds the whole memory. Raises OSError that names the file."""
        memory = self.memory
        path = checkpoint.parent / FOLDER / f"transitions_{read_iteration(checkpoint)}.pt"
        held_steps = len(memory) // memory.num_envs
        if path.parent != self._folder:
            self._folder, self._steps_by_path, self._unsaved_steps = path.parent, {}, held_steps
        steps = min(self._unsaved_steps, held_steps)
        if not steps:
            return
        newest = torch.arange(memory.memory_index - steps, memory.memory_index) % memory.memory_size
        transitions = {
            name: tensor[newest.to(tensor.device)].cpu() for name, tensor in memory.tensors.items()
        }
        path.parent.mkdir(exist_ok=True)
        write_checkpoint(path, {"transitions": transitions, "counters": counters.model_dump()})
        self._steps_by_path[path], self._unsaved_steps = steps, 0
        self._delete_overwritten_files()

    def _delete_overwritten_files(self) -> None:
        """Delete the oldest files whose transitions the memory has overwritten."""
        total = sum(self._steps_by_path.values())
        for path, steps in list(self._steps_by_path.items()):
            total -= steps
            if total < self.memory.memory_size:
                return
            path.unlink(missing_ok=True)
            del self._steps_by_path[path]

    def read(self, folder: Path, iteration: int) -> UpdateCounters | None:
        """Fill the memory with the transitions up to an ``iteration`` of the run in ``folder``; return the last counters, None without files.

        A smaller memory keeps the newest ones. Raises CheckpointError for a file that is damaged or of another task.
        """
        counters = None
        paths = {
            int(number): path
            for path in (folder / FOLDER).glob("transitions_*.pt")
            if (number := path.stem.removeprefix("transitions_")).isdecimal()
        }
        for number, path in sorted(paths.items()):
            if number <= iteration:
                transitions, counters = _read_file(path)
                self._steps_by_path[path] = self._add(path, transitions)
        self._folder = folder / FOLDER
        return counters

    def _add(self, path: Path, transitions: Mapping[str, Tensor]) -> int:
        """Add the ``transitions`` in ``path``, [steps, environments, width], as if they were new; return their number of control steps."""
        memory = self.memory
        widths = {name: tensor.shape[-1] for name, tensor in memory.tensors.items()}
        found = {name: tensor.shape[-1] for name, tensor in transitions.items()}
        if found != widths:
            raise CheckpointError(f"{path}: transitions of other sizes: {found} given; allowed: {widths}")
        # rows are regrouped for the memory's number of environments; an incomplete last control step is left out
        steps = transitions["rewards"].numel() // memory.num_envs
        end = memory.memory_index + steps
        latest = torch.arange(max(memory.memory_index, end - memory.memory_size), end)
        for name, tensor in memory.tensors.items():
            rows = transitions[name].reshape(-1, widths[name])[: steps * memory.num_envs]
            rows = rows.view(steps, memory.num_envs, widths[name])[steps - len(latest) :]
            tensor[(latest % memory.memory_size).to(tensor.device)] = rows.to(tensor.device)
        memory.filled = memory.filled or end >= memory.memory_size
        memory.memory_index = end % memory.memory_size
        return steps


def _read_file(path: Path) -> tuple[Mapping[str, Tensor], UpdateCounters]:
    """Return the transitions and counters in a file. Raises CheckpointError if it is damaged."""
    try:
        content = read_unchecked_checkpoint(str(path))
        transitions = content["transitions"]
        rows = transitions["rewards"].shape[:2]
        for name, tensor in transitions.items():
            check_tensor(f"transitions.{name}", tensor)
            if tensor.ndim != 3 or tensor.shape[:2] != rows:
                raise ValueError(
                    f"transitions.{name}: shape {list(tensor.shape)} beside {list(rows)} rewards"
                )
        return transitions, UpdateCounters.check("counters", content["counters"])
    except (CheckpointError, *CONTENT_ERRORS) as error:
        raise CheckpointError(
            f"{path}: damaged: {get_error_text(error)}; delete it to resume without its transitions"
        ) from None
