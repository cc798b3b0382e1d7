"""The C structures of the CPU kernels, as ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spiky_rl.kernels.launch import RecurrentFeedback

POINTERS = (
    *("current", "state", "params", "keep", "uniforms", "output", "last", "trace"),
    *("grad_output", "grad_last", "grad_current", "grad_state", "grad_params", "scratch"),
)


def get_pointer(x: Tensor | None) -> int | None:
    """Return the address of ``x``; None, the null pointer, if it is None."""
    return None if x is None else x.data_ptr()


class JobStruct(ctypes.Structure):
    """``Job`` of `job.h`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_long) for name in ("T", "K", "B", "N", "batch", "current_batch", "output_batch")),
        ("constant", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


class IntraLayerStruct(ctypes.Structure):
    """``IntraLayer`` of `recurrent.h`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "panels", "grad_weight", "trace")),
        ("delays", ctypes.c_long),
        ("decay", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("filtered", "binary", "cut")),
    ]

    def fill(self, feedback: RecurrentFeedback, synapses: Tensor) -> None:
        """Set the fields that forward and backward share, from ``feedback``; ``synapses`` [D N, N] must outlive this struct."""
        self.weight, self.delays, self.binary = synapses.data_ptr(), feedback.delays, feedback.binary
        self.decay, self.filtered = feedback.decay or 0.0, feedback.decay is not None
        self.cut = feedback.cut


_GRADIENTS = ("grad_last", "grad_state", "grad_weight", "grad_bias", "grad_params")


class LayerStruct(ctypes.Structure):
    """``Layer`` of `layers.h`."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("weight", "bias", "params", "uniforms", "forward", "backward")
        ),
        *((name, ctypes.c_void_p) for name in ("state", "last", "bits", "input", "current", *_GRADIENTS)),
        *((name, ctypes.c_long) for name in ("C", "N", "states", "parameters")),
        ("binary", ctypes.c_int),
        ("output_major", ctypes.c_int),
        ("within", IntraLayerStruct),
        ("padded", ctypes.c_void_p),
        ("charge", ctypes.c_void_p),
    ]

    def set_neuron(self, library: ctypes.CDLL, uniforms: Sequence[float]) -> Any:
        """Set the functions and numbers of the neuron; return the array of the numbers, which must outlive this struct."""
        numbers = (ctypes.c_float * max(1, len(uniforms)))(*uniforms)
        self.uniforms = ctypes.addressof(numbers)
        self.forward = ctypes.cast(library.spiky_forward, ctypes.c_void_p).value
        self.backward = ctypes.cast(library.spiky_backward, ctypes.c_void_p).value
        return numbers


class StackStruct(ctypes.Structure):
    """``Stack`` of `layers.h`."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "layers",
                "x",
                "keep",
                "output",
                "last_step",
                "offset",
                "grad_output",
                "grad_last_step",
                "grad_x",
            )
        ),
        *((name, ctypes.c_long) for name in ("count", "T", "K", "B")),
        *((name, ctypes.c_int) for name in ("constant", "bfloat16", "threads")),
    ]
