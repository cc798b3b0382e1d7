"""Devices: which one a command uses, and how much memory it has."""

from __future__ import annotations

import os
import re

import torch

from spiky_rl.config import memory_check
from spiky_rl.config.options import UserError


def resolve_device(device: str | None, distributed: bool = False) -> str:
    """The device to use, in torch's words. Raises UserError where it does not exist.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; None: the GPU if there is one.
        distributed: Whether this is one of several processes, of which each has the GPU of its own number.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        raise UserError(f"--device {device!r}: choose cpu, cuda or cuda:N")
    if distributed and device != "cpu":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: torch sees no CUDA GPU here; use --device cpu, or install a driver that fits torch {torch.__version__}"
        )
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return f"cuda:{index}"


def get_memory(device: str) -> int:
    """Bytes of memory that a device, as `resolve_device` names it, has."""
    if device == "cpu":
        return memory_check.machine_memory()
    return torch.cuda.get_device_properties(device).total_memory
