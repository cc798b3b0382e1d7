"""Detection of CPUs that multiply bfloat16 matrices faster than float32."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from spiky_rl.config.registry import RegistryError

log = logging.getLogger(__name__)

FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Names of this feature in /proc/cpuinfo, on x86 and on ARM."""


@cache
def read_cpu_flags() -> frozenset[str]:
    """Return all words in /proc/cpuinfo."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


@cache
def has_fast_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 faster than float32.

    The answer follows the CPU's feature flags, not a timing, because the same machine must always compute the same gradients.
    Intel's AVX-512 has half as many execution units for bfloat16 as for float32, so bfloat16 gains nothing there (400-200 neurons:
    an update takes 1.2 times as long). Intel's tiles (AMX) and the instructions of AMD and ARM are faster.
    """
    flags = read_cpu_flags()
    faster = FLAGS - {"avx512_bf16"} if "GenuineIntel" in flags else FLAGS
    gains = not faster.isdisjoint(flags)
    log.debug(
        "gradients of inputs, and of convolutions' weights, are computed in %s on the CPU",
        "bfloat16" if gains else "float32",
    )
    return gains


def check_gradient_precision(name: str) -> str:
    """Return the ``name`` of an option gradient_precision. Raises RegistryError for bfloat16 on a machine without it."""
    if name == "bfloat16" and FLAGS.isdisjoint(read_cpu_flags()):
        raise RegistryError(
            f"bfloat16 needs a CPU with one of {', '.join(sorted(FLAGS))}; use auto or float32"
        )
    return name
