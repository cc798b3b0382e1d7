"""Uses of seeds: which seeds of which task were used for tuning, for choosing and for testing, in the order in which they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from spiky_rl.config.options import RegistryError, Settings, UserError
from spiky_rl.config.spec import read_yaml
from spiky_rl.experiments.design.study import Line, Seeds, Study, StudyError, label_tasks

FILE = "seeds.yaml"
"""Beside the folders of the studies that it is of."""
TESTING = "testing"


class SeedUse(Settings):
    """One use of seeds."""

    study: str
    """Folder of the study or tuning, relative to the file."""
    use: Literal["tuning", "choosing", "testing"]
    """``choosing``: a value that ships, or that a later study has, was chosen by what these seeds returned."""
    seeds: Seeds
    why: Line = ""
    """The value that was chosen."""


class SeedsFile(Settings):
    """seeds.yaml."""

    tasks: dict[str, Annotated[tuple[SeedUse, ...], Field(strict=False)]]
    """Uses by the task's label, the first one first."""

    @field_validator("tasks")
    @classmethod
    def _names_what_was_chosen(cls, tasks: dict[str, Any], _: ValidationInfo) -> dict[str, Any]:
        for task, uses in tasks.items():
            if bare := [use.study for use in uses if use.use == "choosing" and not use.why]:
                raise RegistryError(f"{task}: {bare[0]}: choosing without why; say what was chosen")
        return tasks


@dataclass(frozen=True)
class Reuse:
    """Seeds of a task that were used before."""

    task: str
    seeds: tuple[int, ...]
    before: SeedUse

    @property
    def text(self) -> str:
        """The reuse in words."""
        why = f" ({self.before.why})" if self.before.why else ""
        return f"{spell_seeds(self.seeds)} of {self.task}: {self.before.use} in {self.before.study}{why}"


@dataclass(frozen=True)
class SeedHistory:
    """Earlier uses of the seeds that a study tests on."""

    biased: tuple[Reuse, ...] = ()
    """Uses for tuning or choosing."""
    tested: tuple[Reuse, ...] = ()
    """Uses for testing, in other studies."""


def spell_seeds(seeds: Sequence[int]) -> str:
    """Return ``seeds`` as a study file writes them: ``0-2,5``."""
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def find_file(folder: Path) -> Path | None:
    """Return the file on seeds that governs a study's ``folder``; None if none lies in a folder around it."""
    return next((path for around in folder.absolute().parents if (path := around / FILE).is_file()), None)


def read_uses(path: Path) -> Mapping[str, tuple[SeedUse, ...]]:
    """Return the uses of seeds in the file ``path``, by task. Raises StudyError that names file and key."""
    try:
        return SeedsFile.check("", read_yaml(path)).tasks
    except UserError as error:
        raise StudyError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def find_history(folder: Path, study: Study) -> SeedHistory:
    """Return the earlier uses of the seeds of a ``study`` in a ``folder``; none if no file governs it, or if it is named as one that chooses.

    What stands behind the study's own testing in the file came later and does not count.
    """
    if (path := find_file(folder)) is None:
        return SeedHistory()
    name = folder.absolute().relative_to(path.parent).as_posix()
    biased: list[Reuse] = []
    tested: list[Reuse] = []
    uses = read_uses(path)
    for task in label_tasks(study):
        listed = uses.get(task, ())
        own = [i for i, use in enumerate(listed) if use.study == name]
        tests = [i for i in own if listed[i].use == TESTING]
        if own and not tests:
            continue
        for use in listed[: tests[-1] if tests else len(listed)]:
            both = tuple(seed for seed in use.seeds if seed in study.seeds)
            if both and use.use != TESTING:
                biased.append(Reuse(task, both, use))
            elif both and use.study != name:
                tested.append(Reuse(task, both, use))
    return SeedHistory(tuple(biased), tuple(tested))


def refuse_reused_seeds(folder: Path, study: Study) -> None:
    """Raise StudyError where a ``study`` in a ``folder`` tests on seeds that were tuned or chosen with, unless it says why."""
    for reuse in find_history(folder, study).biased if not study.reused_seeds else ():
        raise StudyError(
            f"seeds: {reuse.text}; take seeds that were not, or say why they are taken again under reused_seeds"
        )


def list_missing_lines(folder: Path, study: Study, use: str = TESTING) -> list[str]:
    """Return the lines that the file on seeds lacks of a ``study`` in a ``folder``, each behind its task's name.

    Args:
        folder: The study's, or a tuning's.
        study: What is trained there.
        use: What for.
    """
    if (path := find_file(folder)) is None:
        return []
    name, uses = folder.absolute().relative_to(path.parent).as_posix(), read_uses(path)
    lines = []
    for task in label_tasks(study):
        known = {seed for own in uses.get(task, ()) if own.study == name for seed in own.seeds}
        if set(study.seeds) - known:
            lines.append(f"{task}: - {{study: {name}, use: {use}, seeds: {_written(study.seeds)}}}")
    return lines


def _written(seeds: Iterable[int]) -> str:
    """Return ``seeds`` as YAML reads them: a text unless it is a single one."""
    text = spell_seeds(tuple(seeds))
    return f'"{text}"' if "," in text else text
