"""Whether this CPU multiplies bfloat16 matrices in hardware, at more than the speed of float32."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from spiky_rl.config.registry import RegistryError

log = logging.getLogger(__name__)

FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""What /proc/cpuinfo calls it, on x86 and on ARM."""


@cache
def read_cpu_flags() -> frozenset[str]:
    """All words in /proc/cpuinfo."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


@cache
def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 faster, by its features and not by a timing: the same machine must compute the same gradients.

    Intel's AVX-512 multiplies bfloat16 in half as many places as float32, so that it gains nothing (400-200 neurons: an update takes 1.2
    times as long); its tiles (AMX) do, as AMD's and ARM's instructions do.
    """
    gains = not (FLAGS - ({"avx512_bf16"} if "GenuineIntel" in read_cpu_flags() else set())).isdisjoint(
        read_cpu_flags()
    )
    log.debug(
        "gradients of inputs, and of convolutions' weights, are computed in %s on the CPU",
        "bfloat16" if gains else "float32",
    )
    return gains


def require_bfloat16() -> None:
    """Raise `RegistryError` where bfloat16 is not multiplied in hardware."""
    if FLAGS.isdisjoint(read_cpu_flags()):
        raise RegistryError(
            f"bfloat16 needs a CPU with one of {', '.join(sorted(FLAGS))}; use auto or float32"
        )
