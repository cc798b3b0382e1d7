"""Policies in C on emulated chips: ``python -m tests.deploy.chips POLICY.C OBSERVATIONS.npy`` prints the instructions of an action."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiky_rl.deploy import c

PROGRAM = Path(__file__).with_name("chip.c")


@dataclass(frozen=True)
class Chip:
    """A compiler and the machine that QEMU emulates."""

    compiler: tuple[str, ...]
    machine: tuple[str, ...]
    start: int
    """Address of the memory, of which 4 MB are used."""


RISCV = ("riscv64-unknown-elf-gcc", "--specs=picolibc.specs", "-mno-relax")
CHIPS = {
    "cortex-m4": Chip(
        ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        ("qemu-system-arm", "-M", "mps2-an386"),
        0,
    ),
    "rv32imafc": Chip(
        (*RISCV, "-march=rv32imafc_zicsr", "-mabi=ilp32f"),
        ("qemu-system-riscv32", "-M", "virt", "-cpu", "rv32,d=false", "-bios", "none"),
        0x80000000,
    ),
    "rv32imac": Chip(
        (*RISCV, "-march=rv32imac_zicsr", "-mabi=ilp32"),
        ("qemu-system-riscv32", "-M", "virt", "-bios", "none"),
        0x80000000,
    ),
}
"""By name; `rv32imac` has no floating-point unit, as an ESP32-C3 or C6."""
LAYOUT = """
ENTRY(start)
SECTIONS {{
  . = {start};
  .boot : {{ KEEP(*(.boot)) }}
  .text : {{ *(.text .text.*) }}
  .rodata : {{ *(.rodata .rodata.* .srodata .srodata.*) }}
  .data : {{ *(.data .data.* .sdata .sdata.*) }}
  .bss : {{ *(.bss .bss.* .sbss .sbss.* COMMON) }}
}}
"""


def find_missing(chip: str) -> str:
    """Return the name of a program that ``chip`` needs and that is not installed; empty if all are."""
    programs = CHIPS[chip].compiler[0], CHIPS[chip].machine[0]
    return next((name for name in programs if not shutil.which(name)), "")


def act(source: Path, observations: np.ndarray, chip: str) -> tuple[np.ndarray, int]:
    """Return the actions [T, A] of a policy.c on an emulated chip, and the instructions of one.

    Args:
        source: The file, beside its header.
        observations: [T, O].
        chip: One of `CHIPS`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = ",\n".join("{" + ", ".join(float(x).hex() + "f" for x in row) + "}" for row in observations)
        text = f"enum {{ STEPS = {len(observations)} }};\nstatic const float observations[STEPS][{observations.shape[1]}] = {{\n{rows}}};\n"
        (folder / "observations.h").write_text(text)
        (folder / "layout.ld").write_text(LAYOUT.format(start=CHIPS[chip].start))
        folders = [f"-I{source.parent}", f"-I{folder}", "-T", folder / "layout.ld"]
        flags = ["-std=gnu99", "-O2", *folders, "-nostartfiles", "-Wl,--no-warn-rwx-segments"]
        line = [*CHIPS[chip].compiler, *flags, PROGRAM, source, "-lm", "-o", folder / "program.elf"]
        subprocess.run(line, check=True)
        options = "-icount shift=0 -semihosting -display none -monitor none -serial none -kernel".split()
        command = [*CHIPS[chip].machine, *options, folder / "program.elf"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    *lines, last = (done.stdout + done.stderr).splitlines()
    bits = np.array([[int(word, 16) for word in line.split()] for line in lines], np.uint32)
    return bits.view(np.float32), int(last.split()[0], 16)


def main(source: str, observations: str) -> None:
    """Print the instructions of an action on every chip, and whether actions are as here."""
    seen = np.load(observations)[:100].astype(np.float32)
    step = c.open_c_session(Path(source))
    here = np.concatenate([step(x, [])[0] for x in seen])
    for chip in CHIPS:
        actions, instructions = act(Path(source), seen, chip)
        print(
            f"{chip:<12}{instructions:>10,} instructions; largest difference {np.abs(actions - here).max():.2g}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
