"""The version of NVIDIA's driver: torch sees no device at all if the driver is too old for torch's build."""

from __future__ import annotations

import ctypes

import torch


def read_driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA version (major, minor) that the driver supports; None if no driver is installed."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def find_driver_fault() -> str | None:
    """Return in one line that the driver is too old for torch, with a remedy; None if it is not, or is not installed.

    A driver supports all CUDA versions of its own major version and older ones.
    """
    built, supported = torch.version.cuda, read_driver_version()
    if built is None or supported is None or supported[0] >= int(built.partition(".")[0]):
        return None
    major, minor = supported
    return (
        f"NVIDIA's driver supports CUDA {major}.{minor} and is too old for this torch, which is built for CUDA {built}; update the"
        f" driver, or install a build of torch for CUDA {major}"
    )
