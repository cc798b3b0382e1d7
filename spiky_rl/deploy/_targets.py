"""Targets by name, the options of ``spiky export``, and checks of a request. Without torch, so that commands fail at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from spiky_rl.config import files, registry
from spiky_rl.config.options import Settings, UserError, option, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.deploy import _footprint
from spiky_rl.deploy.base import ExportError, Target
from spiky_rl.learners.base import EXPORTS
from spiky_rl.run.prepare import merge_agent_without_simulator
from spiky_rl.run.run_plan import RunRequest

HEADERS = frozenset(
    (
        # C99 and C11
        "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic stdbool"
        " stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype"
        # POSIX and glibc
        " aio alloca cpio dirent dlfcn endian err fcntl features fmtmsg fnmatch ftw getopt glob grp iconv langinfo libgen malloc"
        " memory monetary mqueue ndbm netdb nl_types poll pthread pwd regex resolv sched search semaphore spawn strings stropts syslog"
        " sysexits tar termios trace ulimit unistd utime utmpx values wordexp"
        # Arduino
        " Arduino Client EEPROM IPAddress Print Printable SPI Server Stream Udp WString Wire"
    ).split()
)
"""Headers without folder and suffix: with -I of its folder, a policy of such a name would take the place of the header."""


def make_targets(
    names: Sequence[str], options: Mapping[str, PlainMapping] | None = None
) -> dict[str, Target]:
    """Build the targets ``names``, with ``options`` by name. Raises UserError for an unknown name, or if this machine cannot write or verify a target."""
    known, targets = registry.list_names("targets"), dict[str, Target]()
    for name in names:
        if name not in known:
            raise UserError(f"--to: {name!r} given; allowed: {', '.join(known)}{suggest_name(name, known)}")
        settings = {"name": name, **(options or {}).get(name, {})}
        targets[name] = registry.configure("targets", settings, "--to").build()
        targets[name].check_requirements()
    return targets


def require_action_mapping(targets: Mapping[str, Target]) -> None:
    """Raise ExportError for the first of the ``targets`` whose files cannot map actions to the bounds of a task."""
    for name, target in targets.items():
        if not target.maps_actions:
            raise ExportError(
                f"--to {name}: not available with actions in the task's bounds; allowed: other targets, or --raw_actions, with which"
                " all files say how to map them"
            )


def check_expressible(targets: Iterable[Target], agent: PlainMapping) -> None:
    """Raise ExportError, with the agent's key, if a target cannot express ``agent``."""
    for target in targets:
        target.check_network(agent)


def require_chip(chip: str, targets: Iterable[Target]) -> None:
    """Raise UserError if ``chip`` is unknown, its compiler is missing, or no target writes C."""
    if chip not in _footprint.CHIPS:
        raise UserError(
            f"--report: {chip} given; allowed: {', '.join(_footprint.CHIPS)}{suggest_name(chip, _footprint.CHIPS)}"
        )
    if not any(target.is_c for target in targets):
        c_targets = [name for name in registry.list_names("targets") if registry.resolve("targets", name).is_c]  # type: ignore[attr-defined]
        raise UserError(
            f"--report: {chip} given without a target in C; allowed: --to {' or '.join(c_targets)}"
        )
    _footprint.require_compiler(chip)


class ExportOptions(Settings):
    """Options of an export, beside a `RunRequest`."""

    to: str = option(
        "c",
        f"targets, separated by commas: {', '.join(registry.list_names('targets'))}; c-int8 means c_int8",
        metavar="TARGETS",
    )
    out: Path | None = option(
        None, "folder of the files; null: exported/ in the run's folder", metavar="FOLDER"
    )
    report: str | None = option(
        None, "print the memory of the targets in C on this chip: cortex-m4", metavar="CHIP"
    )
    nir_version: Literal["1.0.4"] | None = option(
        None, "version of the format of --to nir, for libraries that pin it: 1.0.4; null: the current one"
    )

    name: str = option(
        "policy",
        "prefix of all names in C, and name of its files, so that several policies link",
        metavar="NAME",
    )

    calibrate: Path | None = option(
        None,
        "NumPy file (.npy) of observations [T, O] or [T, B, O], such as a robot's own, from which --to c_int8 takes its ranges; null:"
        " record an episode in the task",
        metavar="FILE",
    )

    raw_actions: bool = option(
        False,
        "write files that give raw actions: do not apply the task's scale, offset, clip and bounds",
    )

    @property
    def target_names(self) -> list[str]:
        """The targets by their registry names."""
        return [name.strip().replace("-", "_") for name in self.to.split(",")]

    def check_request(self, request: RunRequest) -> dict[str, Target]:
        """Return the targets by name. Raises UserError if the request cannot be exported, as far as known without Isaac Lab."""
        request.learner.require_ability(EXPORTS, "spiky export", request.algorithm)
        if self.nir_version is not None and "nir" not in self.target_names:
            raise UserError(f"--nir_version: {self.nir_version} given with --to {self.to}; allowed: --to nir")
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,30}", self.name) or self.name in HEADERS:
            raise UserError(
                f"--name: {self.name!r} given; allowed: a letter, then up to 30 letters, digits and _, but not the name of a header of"
                " C, POSIX or Arduino, such as math, strings or Wire"
            )
        version = {} if self.nir_version is None else {"nir": {"version": self.nir_version}}
        targets = make_targets(self.target_names, version)
        for target in targets.values():
            target.name = self.name
        if self.out is not None:
            files.require_writable("--out", self.out)
        if self.calibrate is not None:
            if not any(target.needs_rollout for target in targets.values()):
                raise UserError(
                    f"--calibrate: {self.calibrate} given with --to {self.to}; allowed: --to c_int8"
                )
            if not self.calibrate.is_file():
                raise UserError(f"--calibrate: {self.calibrate} given; there is no such file")
        if self.report is not None:
            require_chip(self.report, targets.values())
        if (agent := merge_agent_without_simulator(request)) is not None:
            check_expressible(targets.values(), agent)
        return targets
