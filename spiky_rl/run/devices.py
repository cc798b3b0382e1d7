"""The device of a command, and its memory."""

from __future__ import annotations

import logging
import os
import re

import torch

from spiky_rl.config import memory_check
from spiky_rl.config.options import UserError
from spiky_rl.kernels.cuda_driver import find_driver_fault

log = logging.getLogger(__name__)


def resolve_device(device: str | None, distributed: bool = False) -> str:
    """Return the torch name of the device to use. Raises UserError if the device does not exist.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for the GPU if there is one.
        distributed: Whether this process belongs to a distributed run, where GPU ``LOCAL_RANK`` is used.
    """
    if device is None:
        device = _choose_device()
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        raise UserError(f"--device {device!r}: unknown device; allowed: cpu, cuda, cuda:N")
    if device == "cpu":
        return device
    if distributed:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if not torch.cuda.is_available():
        remedy = find_driver_fault() or f"use --device cpu, or install a driver for torch {torch.__version__}"
        raise UserError(f"--device {device}: torch finds no CUDA GPU; {remedy}")
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: no such GPU; allowed: cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return f"cuda:{index}"


def _choose_device() -> str:
    """Return ``cuda`` if there is a GPU, else ``cpu``; warn if there is a GPU that its driver does not give to torch."""
    if torch.cuda.is_available():
        return "cuda"
    if fault := find_driver_fault():
        log.warning("this run is on the CPU: %s", fault)
    return "cpu"


def get_memory(device: str) -> int:
    """Return the bytes of memory of a ``device`` from `resolve_device`."""
    if device == "cpu":
        return memory_check.get_machine_memory()
    return torch.cuda.get_device_properties(device).total_memory
