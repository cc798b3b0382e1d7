"""Uses of seeds: for each task, the seeds of tuning, choosing and testing, in the order of their use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from spiky_rl.config.options import RegistryError, Settings, UserError
from spiky_rl.config.spec import read_yaml
from spiky_rl.experiments.design.study import Line, Seeds, Study, StudyError, label_tasks

FILE = "seeds.yaml"
"""File name, in the folder that holds the studies."""
TESTING = "testing"


class SeedUse(Settings):
    """One use of seeds."""

    study: str
    """Folder of the study or tuning, relative to the file."""
    use: Literal["tuning", "choosing", "testing"]
    """``choosing``: the returns on these seeds chose a value that ships or that a later study uses."""
    seeds: Seeds
    why: Line = ""
    """The chosen value."""


class SeedsFile(Settings):
    """Content of seeds.yaml."""

    tasks: dict[str, Annotated[tuple[SeedUse, ...], Field(strict=False)]]
    """Uses by task label, in their order."""

    @field_validator("tasks")
    @classmethod
    def _require_why(cls, tasks: dict[str, Any]) -> dict[str, Any]:
        for task, uses in tasks.items():
            if bare := [use.study for use in uses if use.use == "choosing" and not use.why]:
                raise RegistryError(
                    f"{task}: {bare[0]}: why: missing, though use is choosing; name the chosen value"
                )
        return tasks


@dataclass(frozen=True)
class Reuse:
    """Seeds of a task with an earlier use."""

    task: str
    seeds: tuple[int, ...]
    before: SeedUse

    @property
    def text(self) -> str:
        """The reuse as text."""
        why = f" ({self.before.why})" if self.before.why else ""
        return f"{format_seeds(self.seeds)} of {self.task}: {self.before.use} in {self.before.study}{why}"


@dataclass(frozen=True)
class SeedHistory:
    """Earlier uses of the seeds of a study."""

    biased: tuple[Reuse, ...] = ()
    """Uses for tuning or choosing."""
    tested: tuple[Reuse, ...] = ()
    """Uses for testing in other studies."""


def format_seeds(seeds: Sequence[int]) -> str:
    """Return ``seeds`` as a study file writes them: ``0-2,5``."""
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def find_file(folder: Path) -> Path | None:
    """Return the seeds.yaml of a study's ``folder``, from the nearest folder around it; None if there is none."""
    return next((path for around in folder.absolute().parents if (path := around / FILE).is_file()), None)


def read_uses(path: Path) -> Mapping[str, tuple[SeedUse, ...]]:
    """Return the uses of seeds in ``path`` by task. Raises StudyError that names file and key."""
    try:
        return SeedsFile.check("", read_yaml(path)).tasks
    except UserError as error:
        raise StudyError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def find_history(folder: Path, study: Study, tasks: Iterable[str]) -> SeedHistory:
    """Return the earlier uses of the seeds of a ``study`` in a ``folder``, on its ``tasks``, given by their labels.

    It is empty without a seeds.yaml, and on a task for which that file says that the study only tunes or chooses. Uses of a seed after the
    study's own last test of this seed do not count; if the file has no such test, as of a seed that the study adds, all uses of the seed count.
    """
    if (path := find_file(folder)) is None:
        return SeedHistory()
    name, uses = folder.absolute().relative_to(path.parent).as_posix(), read_uses(path)
    biased, tested = list[Reuse](), list[Reuse]()
    for task in tasks:
        own_uses = {use.use for use in uses.get(task, ()) if use.study == name}
        if own_uses and TESTING not in own_uses:
            continue
        own_tests: dict[int, int] = {}  # seed -> index of the study's last test on it
        for i, use in enumerate(uses.get(task, ())):
            if (use.study, use.use) == (name, TESTING):
                own_tests |= dict.fromkeys(use.seeds, i)
        for i, use in enumerate(uses.get(task, ())):
            earlier = tuple(s for s in use.seeds if s in study.seeds and i < own_tests.get(s, math.inf))
            if earlier and use.use != TESTING:
                biased.append(Reuse(task, earlier, use))
            elif earlier and use.study != name:
                tested.append(Reuse(task, earlier, use))
    return SeedHistory(tuple(biased), tuple(tested))


def refuse_reused_seeds(folder: Path, study: Study) -> None:
    """Raise StudyError if a ``study`` tests on seeds that were tuned or chosen with and gives no reason."""
    if study.reused_seeds:
        return
    if biased := find_history(folder, study, label_tasks(study)).biased:
        raise StudyError(
            f"seeds: {biased[0].text}; choose other seeds, or give the reason under reused_seeds"
        )


def list_missing_lines(folder: Path, study: Study, use: str = TESTING) -> list[str]:
    """Return the entries that seeds.yaml lacks for tasks and seeds of a ``study`` in a ``folder``; ``use`` is testing or tuning."""
    if (path := find_file(folder)) is None:
        return []
    name, uses = folder.absolute().relative_to(path.parent).as_posix(), read_uses(path)
    lines, seeds = [], format_seeds(study.seeds)
    if "," in seeds:  # YAML would take it for several entries of the mapping
        seeds = f'"{seeds}"'
    for task in label_tasks(study):
        known = {seed for own in uses.get(task, ()) if own.study == name for seed in own.seeds}
        if set(study.seeds) - known:
            lines.append(f"{task}: - {{study: {name}, use: {use}, seeds: {seeds}}}")
    return lines
