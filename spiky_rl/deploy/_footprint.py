"""Memory that a policy in C takes on a chip: flash, RAM and stack, as a cross compiler counts them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.config.registry import UserError
from spiky_rl.deploy.c import STANDARD

CHIPS = {
    "cortex-m4": (
        "arm-none-eabi",
        ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    )
}
"""By name: the prefix of the compiler's programs, what they are told, and Debian's packages of them."""
OPTIMISED = ("-O2", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True)
class Footprint:
    """Bytes that a policy takes."""

    flash: int
    """Code and constants, those of the C library that it calls included."""
    state: int
    """The struct, which is all the memory that it writes to."""
    stack: int
    """At most: the frames of all its functions together."""


def require_compiler(chip: str) -> None:
    """Raise UserError where the compiler of a ``chip`` is missing."""
    prefix, _, packages = CHIPS[chip]
    if not all(shutil.which(f"{prefix}-{program}") for program in ("gcc", "size")):
        raise UserError(f"--report {chip}: {prefix}-gcc is not installed; Debian has it in {packages}")


def measure_footprint(policy: Path, chip: str) -> Footprint:
    """Memory that ``policy``, the path of a policy.c, takes on a ``chip``. Raises UserError with what the compiler says if it refuses it."""
    require_compiler(chip)
    prefix, machine, _ = CHIPS[chip]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "state.c").write_text('#include "policy.h"\npolicy_state state;\n', encoding="utf-8")
        compiler = [f"{prefix}-gcc", *STANDARD, *machine, *OPTIMISED, f"-I{policy.parent}"]
        _run([*compiler, "-fstack-usage", "-c", str(policy), "-o", "policy.o"], folder, policy)
        _run([*compiler, "-c", "state.c", "-o", "state.o"], folder, policy)
        entries = ("-Wl,--gc-sections", "-Wl,-e,policy_step", "-Wl,-u,policy_reset", "-nostartfiles")
        _run([*compiler, *entries, "policy.o", "-o", "policy.elf", "-lm"], folder, policy)
        text, data, _ = _sections(prefix, "policy.elf", folder)
        frames = [int(line.split("\t")[1]) for line in (folder / "policy.su").read_text().splitlines()]
        return Footprint(text + data, _sections(prefix, "state.o", folder)[2], sum(frames))


def _sections(prefix: str, file: str, folder: Path) -> tuple[int, int, int]:
    """Bytes of code and constants, of variables with a value and of those without."""
    told = _run([f"{prefix}-size", file], folder, folder / file)
    text, data, bss = told.splitlines()[1].split()[:3]
    return int(text), int(data), int(bss)


def _run(line: list[str], folder: Path, policy: Path) -> str:
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{policy}: {line[0]} refuses it: {done.stderr.strip().splitlines()[0]}")
    return done.stdout
