"""A digest of the texts that compiled kernels are made from: equal digests mean equal C++ and CUDA."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from spiky_rl.config import registry
from spiky_rl.kernels import compiler, emit

FOLDER = Path(__file__).parent / "csrc"
ON_GPU_ONLY = "_gpu"
"""End of the names of headers that no CPU compiles."""
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)
"""A comment; a text in quotes, which may look as if one began in it, is its first group."""


def compute_digest(on_gpu: bool, others: Iterable[Path] = ()) -> str:
    """Return 16 hexadecimal digits that stand for the sources of all kernels that a kind of device compiles.

    They cover the headers in ``csrc``, the programs that the built-in neurons and surrogates give with their default options, and the
    flags of the C++ compiler. Comments and white space do not count, nor does Python beyond the programs that it writes. A neuron of the
    user's own is not in it, and neither are the compiler and the processor, which ``-march=native`` depends on.

    Args:
        on_gpu: Whether the headers for GPUs count.
        others: More source files that count.
    """
    headers = sorted(path for path in FOLDER.glob("*.h") if on_gpu or not path.stem.endswith(ON_GPU_ONLY))
    texts = [strip_comments(path.read_text(encoding="utf-8")) for path in (*headers, *sorted(others))]
    return hashlib.sha256("\0".join([*compiler.FLAGS, *texts, *emit_programs()]).encode()).hexdigest()[:16]


def strip_comments(text: str) -> str:
    """Return C ``text`` without comments and without white space that means nothing."""
    bare = COMMENT.sub(lambda found: found[1] or " ", text)
    return "\n".join(words for line in bare.splitlines() if (words := " ".join(line.split())))


@cache
def emit_programs() -> tuple[str, ...]:
    """Return the program of every built-in neuron with every built-in surrogate, with shared and with varying parameters."""
    pairs = [
        (
            registry.resolve("neurons", neuron).from_options(),
            registry.resolve("surrogates", surrogate).from_options(),
        )
        for neuron in registry.list_names("neurons")
        for surrogate in registry.list_names("surrogates")
    ]
    return tuple(
        emit.build_program(neuron, surrogate, (varying,) * len(neuron.params)).text  # type: ignore[attr-defined, arg-type]
        for neuron, surrogate in pairs
        for varying in (False, True)
    )
