"""Memory of a policy in C on a chip: flash, RAM and stack, measured with a cross compiler."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.config.registry import UserError
from spiky_rl.deploy.c import STANDARD, run_compiler

CHIPS = {
    "cortex-m4": (
        "arm-none-eabi",
        ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    )
}
"""By chip: the prefix of the compiler's programs, its flags, and the Debian packages."""
OPTIMIZATION_FLAGS = ("-O2", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True)
class Footprint:
    """Bytes of a policy on a chip."""

    flash: int
    """Code and constants, with the called parts of the C library."""
    state: int
    """The struct: all memory that the policy writes to."""
    stack: int
    """Upper bound: the sum of the frames of all functions."""


def require_compiler(chip: str) -> None:
    """Raise UserError if the compiler of ``chip`` is not installed."""
    prefix, _, packages = CHIPS[chip]
    if not all(shutil.which(f"{prefix}-{program}") for program in ("gcc", "size")):
        raise UserError(f"--report {chip}: {prefix}-gcc is not installed; Debian has it in {packages}")


def measure_footprint(policy: Path, chip: str) -> Footprint:
    """Measure ``policy``, the path of a policy.c, on ``chip``. Raises UserError with the compiler's message if compiling fails."""
    require_compiler(chip)
    prefix, machine, _ = CHIPS[chip]
    policy = policy.absolute()  # the compiler runs in another folder
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(tool: str, *words: str) -> str:
            return run_compiler([f"{prefix}-{tool}", *words], f"{policy}: {prefix}-{tool}", folder)

        def measure_sections(file: str) -> list[int]:
            """Return the bytes of code and constants, of initialised and of uninitialised variables."""
            return [int(word) for word in run("size", file).splitlines()[1].split()[:3]]

        text = f'#include "{policy.stem}.h"\n{policy.stem}_state state;\n'
        (folder / "state.c").write_text(text, encoding="utf-8")
        flags = (*STANDARD, *machine, *OPTIMIZATION_FLAGS, f"-I{policy.parent}")
        run("gcc", *flags, "-fstack-usage", "-c", str(policy), "-o", "policy.o")
        run("gcc", *flags, "-c", "state.c", "-o", "state.o")
        entries = (f"-Wl,-e,{policy.stem}_step", f"-Wl,-u,{policy.stem}_reset", "-nostartfiles")
        run("gcc", *flags, "-Wl,--gc-sections", *entries, "policy.o", "-o", "policy.elf", "-lm")
        code, data, _ = measure_sections("policy.elf")
        frames = [int(line.split("\t")[1]) for line in (folder / "policy.su").read_text().splitlines()]
        return Footprint(code + data, measure_sections("state.o")[2], sum(frames))
