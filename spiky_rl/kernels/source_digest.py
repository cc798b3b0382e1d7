"""A digest of the kernels' source texts: equal digests mean equal C++ and CUDA."""

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
"""Suffix of the names of files that only GPUs compile."""
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)
"""A comment, or a string literal (first group), which may contain the signs of a comment."""


def compute_digest(on_gpu: bool, others: Iterable[Path] = ()) -> str:
    """Return 16 hexadecimal digits that identify the sources of all kernels.

    The digest covers the files in ``csrc``, the generated programs of the built-in neurons and surrogates with their default options,
    and the flags of the C++ compiler. It ignores comments, white space, the user's own neurons, and the compiler and processor, on
    which ``-march=native`` depends.

    Args:
        on_gpu: Whether to include the files for GPUs.
        others: Further source files to include.
    """
    own = sorted(path for path in FOLDER.iterdir() if path.suffix in (".h", ".cpp"))
    files = [path for path in own if on_gpu or not path.stem.endswith(ON_GPU_ONLY)]
    texts = [strip_comments(path.read_text(encoding="utf-8")) for path in (*files, *sorted(others))]
    return hashlib.sha256("\0".join([*compiler.FLAGS, *texts, *emit_programs()]).encode()).hexdigest()[:16]


def strip_comments(text: str) -> str:
    """Return C ``text`` without comments and insignificant white space."""
    bare = COMMENT.sub(lambda found: found[1] or " ", text)
    return "\n".join(words for line in bare.splitlines() if (words := " ".join(line.split())))


@cache
def emit_programs() -> tuple[str, ...]:
    """Return the programs of every built-in neuron with every built-in surrogate, once with shared and once with varying parameters."""
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
