"""Writer of ``policy.c`` and ``policy.h`` from a policy; the templates of both are in ``csrc``."""

from __future__ import annotations

import copy
import itertools
import textwrap
from pathlib import Path
from string import Template
from typing import Any

import torch

from spiky_rl.config import files
from spiky_rl.deploy._c_ann import format_action, write_action, write_mlp, write_recurrent
from spiky_rl.deploy._c_network import write_network
from spiky_rl.deploy._c_writer import CSRC, NEEDS_MATH, CWriter, Signal
from spiky_rl.deploy._contract import format_contract, format_macros
from spiky_rl.deploy._int8_network import Int8Network
from spiky_rl.deploy._int8_text import describe_values, write_int8_network
from spiky_rl.deploy.base import (
    ANN_CLASSES,
    ExportError,
    Target,
    count_observations,
    get_class_name,
    get_command_scale,
    get_normalization,
)
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.action_bounds import ActionMap
from spiky_rl.learners.common.inference_policy import MAX_OBSERVATION
from spiky_rl.learners.rsl_rl.export import make_metadata
from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

MAX_LISTED = 256
"""Number of observations whose normalisation a header lists; more fill pages."""


def write_policy(
    target: Target,
    model: MLPModel,
    folder: Path,
    width: int = 0,
    int8_network: Int8Network | None = None,
) -> Path:
    """Write ``NAME.c`` and ``NAME.h`` into ``folder``, which is created if missing, and return the path of ``NAME.c``.

    Args:
        target: The target, whose name, contract and reference policy the files tell.
        model: The policy.
        folder: The folder of both files.
        width: Floats in a vector of the `cpu` backend on this machine. The backend does not fuse products with fewer outputs.
        int8_network: The quantised network to write in place of the policy's own; None for single precision.

    Raises ExportError, with the agent's key, if a part has no form in C.
    """
    distribution: Any = model.distribution
    name, contract = target.name, target.contract
    commands: ActionMap | None = getattr(distribution, "to_task_units", None)
    w, inputs, outputs = CWriter(width), count_observations(model), distribution.output_dim
    x = _write_observations(w, model, inputs)
    if int8_network is not None:
        action, notes = write_int8_network(w, int8_network, x), describe_values(int8_network)
    else:
        with torch.no_grad():
            if isinstance(model, SpikingModel):
                features = write_network(w, copy.deepcopy(model.network).cpu(), x)
            elif (kind := get_class_name(model)) in ANN_CLASSES:
                recurrent: Any = getattr(model, "rnn", None)
                w.stateful = recurrent is not None
                x = write_recurrent(w, recurrent.rnn, x) if w.stateful else x
                features = write_mlp(w, "mlp", model.mlp, x)
            else:
                raise ExportError(
                    f"agent.actor.class_name: {kind} given; allowed for c: {', '.join(ANN_CLASSES)}"
                )
        w.write_comment("action", w.last)
        action = format_action(distribution, features.array, outputs, w)
        notes = _describe_invalid_values(w, isinstance(model, SpikingModel))
    write_action(w, commands, action, outputs)
    body = _format_body(w)  # declares helper functions
    about = [*format_contract(contract, name, inputs, outputs, commands), *_format_normalization(model, name)]
    texts = {
        "name": name,
        "NAME": name.upper(),
        "math": "#include <math.h>\n" if NEEDS_MATH.search(w.helpers) else "",
        "index": w.index_type,
        "helpers": w.helpers,
        "constants": "\n".join(w.constants.values()),
        "body": body,
        "contract": "".join(f"// {line}\n" for line in about),
        "usage": format_comment(make_metadata(model, {}, {}, [], "", "")["usage"]),
        "notes": format_comment(notes),
        "equality": format_comment(_describe_equality(target, model, w)),
        "macros": format_macros(contract, name, outputs, commands),
        "inputs": inputs,
        "outputs": outputs,
        "bytes": w.struct_bytes,
        "kept": (
            f"{w.count_bytes(w.state_fields)} bytes of it are state of the network."
            if w.stateful
            else "The network keeps no state."
        ),
        "flash": w.constant_bytes,
        "fields": w.struct,
    }
    for suffix in (".c", ".h"):
        template = Template((CSRC / f"policy{suffix}").read_text(encoding="utf-8"))
        files.write_text(folder / f"{name}{suffix}", template.substitute(texts))
    return folder / f"{name}.c"


def _write_observations(w: CWriter, model: MLPModel, count: int) -> Signal:
    """Write the normalisation of the ``count`` observations; return the normalised observations."""
    observed = w.add_scratch("input", count, "observation after normalisation")
    read, limit = "observation[c]", MAX_OBSERVATION
    if (scale := get_normalization(model)) is not None:
        mean = w.format_element("obs_normalizer_mean", scale[0], "c")
        divisor = w.format_element("obs_normalizer_divisor", scale[1], "c")
        read = f"(observation[c] - {mean}) / {divisor}"
        limit = min(MAX_OBSERVATION, getattr(model.obs_normalizer, "bound", MAX_OBSERVATION))
    call = f"{w.use_function('observed')}({read}, {format_literal(limit)})"
    w.write_comment("observations, normalised", w.once)
    w.write_loop(w.once, "c", count, f"{observed}[c] = {call};")
    return Signal(observed, count, constant=True)


def _format_normalization(model: MLPModel, name: str) -> list[str]:
    """Return lines of the header on the normalisation: what observations were in training."""
    scale = get_normalization(model)
    if scale is None:
        return []
    mean, divisor = (values.flatten().tolist() for values in scale)
    heading = "Each observation is normalised inside: less its mean in training, divided by its standard deviation there"
    if len(mean) > MAX_LISTED:
        return [f"{heading}; both are arrays of {name}.c."]
    values = [f"{i}: {m:.3g} +- {d:.3g}" for i, (m, d) in enumerate(zip(mean, divisor, strict=True))]
    rows = ["  " + ", ".join(row) for row in itertools.batched(values, 6)]
    return [f"{heading} (observation: mean +- deviation):", *rows]


def _format_body(w: CWriter) -> str:
    """Return the statements of a control step; without a carried state, they set all states to zero first."""
    lines = ["int events;"]
    if w.state_fields and not w.stateful:
        lines.append("// every control step begins at rest")
        lines += [f"memset(s->{field.name}, 0, sizeof s->{field.name});" for field in w.state_fields]
    lines += w.once
    if w.step:
        step = textwrap.indent("\n".join(w.step), "  ")
        lines += [f"\nfor (int k = 0; k < {w.steps}; k++) {{  // inner steps{step}", "}"]
    lines += w.last
    floats = [field for field in w.state_fields if field.kind == "float"]
    if floats and w.stateful:
        keep = w.use_function("keep_finite")
        lines += ["\n// state", *(f"{keep}(s->{field.name}, {field.size});" for field in floats)]
    return textwrap.indent("\n".join(lines), "  ")


def _describe_invalid_values(w: CWriter, is_spiking: bool) -> str:
    """Return the header's sentences on invalid observations."""
    live = "" if is_spiking else " The live policy, an ANN, does neither."
    state = " State that is not finite after a step becomes 0, its value when an episode begins. So no observation breaks the steps after it."
    return (
        f"After normalisation, an observation that is not a number counts as 0, and observations beyond {MAX_OBSERVATION:g} in size are clamped."
        f"{live}{state if w.stateful else ''}"
    )


def _describe_equality(target: Target, model: MLPModel, w: CWriter) -> str:
    """Return the header's sentences on what the actions equal, and with which compilers."""
    has_own_reference = target.get_reference_model(model) is not model
    reference = f"those of the policy {target.reference_text}" if has_own_reference else "the live policy's"
    equality = f"{reference} {target.format_tolerance(model, get_command_scale(model))}".rstrip(",")
    moved = ", which may move a spike" if isinstance(model, SpikingModel) else ""
    is_fused = "define MULTIPLY_ADD" in w.helpers
    fused = (
        " if the target has fused multiply-adds and the compiler may use them (GCC and Clang: -march=native, -mfma,"
        f" -mfpu=fpv4-sp-d16). Without them sums differ in their last bits{moved}. All other products"
        if is_fused
        else ". Products"
    )
    return (
        f"Actions equal {equality}{fused} and sums are rounded separately: {target.name}.c disables contraction in GCC and Clang; disable"
        " it by flag in other compilers. The last bits differ if floats are computed in more than 32 bits (FLT_EVAL_METHOD other"
        " than 0). With -ffast-math the file does not compile."
    )


def add_note(path: Path, note: str) -> None:
    """Add a ``note``, known only after ``path``, a policy.c, was written, to the comment of its header."""
    header = path.with_suffix(".h")
    text = header.read_text(encoding="utf-8")
    guard = f"#ifndef {path.stem.upper()}_H"
    files.write_text(header, text.replace(guard, f"//\n{format_comment(note)}\n{guard}", 1))


def format_comment(text: str) -> str:
    """Return ``text`` as lines of a C comment."""
    return textwrap.fill(text, 110, initial_indent="// ", subsequent_indent="// ")
