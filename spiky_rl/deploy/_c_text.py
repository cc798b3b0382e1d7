"""Writer of ``policy.c`` and ``policy.h`` from a policy."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spiky_rl.config import files
from spiky_rl.deploy._c_ann import format_action, get_commands, write_action, write_mlp, write_recurrent
from spiky_rl.deploy._c_functions import ARITHMETIC, ARITHMETIC_TEXT, BOUNDS_TEXT, HEADER, SOURCE
from spiky_rl.deploy._c_network import write_network
from spiky_rl.deploy._c_writer import CWriter, Signal
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.inference_policy import BOUND
from spiky_rl.deploy._contract import PolicyContract, format_contract, format_macros
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy._int8_text import describe_values, write_integer_network
from spiky_rl.deploy.base import ANNS, ExportError, count_observations, get_class_name, get_normalization
from spiky_rl.learners.rsl_rl.export import make_metadata
from spiky_rl.learners.rsl_rl.model import SpikingModel

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import MLPModel


def write_policy(
    model: MLPModel, folder: Path, width: int, name: str = "policy", contract: PolicyContract | None = None
) -> Path:
    """Write ``NAME.c`` and ``NAME.h`` into ``folder``, which is created if missing, and return the path of ``NAME.c``.

    Args:
        model: The policy.
        folder: The folder.
        width: Floats in a vector of the `cpu` backend on this machine. The backend does not fuse products with fewer outputs.
        name: Prefix of all names that other files see.
        contract: Description of the policy's place in its environment, if it is known.

    Raises ExportError, with the agent's key, if a part has no form in C.
    """
    w = CWriter(width)
    x = _write_observations(w, model)
    with torch.no_grad():
        if isinstance(model, SpikingModel):
            features = write_network(w, copy.deepcopy(model.network).cpu(), x)
        else:
            features = _write_ann(w, model, x)
    w.comment("action", w.last)
    action = format_action(model.distribution, features.array, _count_actions(model), w)
    return _finish(w, model, action, BOUNDS_TEXT.format(bound=f"{BOUND:g}"), folder, name, contract)


def write_integers(
    model: SpikingModel,
    network: IntegerNetwork,
    folder: Path,
    name: str = "policy",
    contract: PolicyContract | None = None,
) -> Path:
    """Write ``model`` with the quantised ``network``; the other arguments are those of `write_policy`."""
    w = CWriter()
    action = write_integer_network(w, network, _write_observations(w, model))
    return _finish(w, model, action, describe_values(network), folder, name, contract)


def _write_observations(w: CWriter, model: MLPModel) -> Signal:
    """Write the normalisation of the observations, and return them."""
    count = count_observations(model)
    observed = w.add_scratch("input", count, "observation after normalisation")
    read, limit = "observation[c]", BOUND
    if (scale := get_normalization(model)) is not None:
        mean = w.format_element("obs_normalizer_mean", scale[0], "c")
        divisor = w.format_element("obs_normalizer_divisor", scale[1], "c")
        read = f"(observation[c] - {mean}) / {divisor}"
        limit = min(BOUND, getattr(model.obs_normalizer, "bound", BOUND))
    call = f"{w.use_function('observed')}({read}, {format_literal(limit)})"
    w.comment("observations, normalised", w.once)
    w.write_loop(w.once, "c", count, f"{observed}[c] = {call};")
    return Signal(observed, count, constant=True)


def _write_ann(w: CWriter, model: MLPModel, x: Signal) -> Signal:
    if (kind := get_class_name(model)) not in ANNS:
        raise ExportError(f"agent.actor.class_name: {kind} given; allowed for c: {', '.join(ANNS)}")
    recurrent: Any = getattr(model, "rnn", None)
    w.stateful = recurrent is not None
    return write_mlp(w, "mlp", model.mlp, write_recurrent(w, recurrent.rnn, x) if w.stateful else x)


def _finish(
    w: CWriter,
    model: MLPModel,
    action: str,
    notes: str,
    folder: Path,
    name: str,
    contract: PolicyContract | None,
) -> Path:
    """Write the result of a control step, then both files; return the path of ``NAME.c``.

    Args:
        action: C expression of the policy's action n.
        notes: Sentences of the header on invalid values.
    """
    write_action(w, model.distribution, action, _count_actions(model))
    return write_files(folder, name, _format_source(w, name), _format_header(w, model, notes, name, contract))


def _format_body(w: CWriter) -> str:
    """Return the statements of a control step; state that is not kept begins at zero in each."""
    carried = w.state_fields
    lines = ["int events;"]
    if carried and not w.stateful:
        lines.append("// every control step begins at rest")
        lines += [f"memset(s->{field.name}, 0, sizeof s->{field.name});" for field in carried]
    lines += w.once
    if w.step:
        step = textwrap.indent("\n".join(w.step), "  ")
        lines += [f"\nfor (int k = 0; k < {w.steps}; k++) {{  // inner steps{step}", "}"]
    lines += w.last
    floats = [field for field in carried if field.kind == "float"]
    if floats and w.stateful:
        keep = w.use_function("keep_finite")
        lines += ["\n// state", *(f"{keep}(s->{field.name}, {field.size});" for field in floats)]
    return textwrap.indent("\n".join(lines), "  ")


def _format_source(w: CWriter, name: str) -> str:
    """Return the text of ``NAME.c``."""
    body = _format_body(w)  # it declares helper functions
    return SOURCE.format(
        name=name,
        NAME=name.upper(),
        math="#include <math.h>\n" if w.needs_math else "",
        arithmetic=ARITHMETIC,
        index=w.index_type,
        helpers=w.helpers,
        constants="\n".join(w.constants.values()),
        body=body,
    )


def _format_header(
    w: CWriter, model: MLPModel, notes: str, name: str, contract: PolicyContract | None
) -> str:
    """Return the text of ``NAME.h``."""
    commands = get_commands(model.distribution)
    inputs, outputs = count_observations(model), _count_actions(model)
    return HEADER.format(
        name=name,
        NAME=name.upper(),
        usage=format_comment(make_metadata(model, {}, {}, [], "", "")["usage"]),
        contract="".join(
            f"// {line}\n" for line in format_contract(contract, name, inputs, outputs, commands)
        ),
        macros=format_macros(contract, name, commands),
        flash=w.constant_bytes,
        notes=format_comment(notes),
        arithmetic=format_comment(ARITHMETIC_TEXT),
        inputs=inputs,
        outputs=outputs,
        bytes=w.size,
        carried=w.state_bytes if w.stateful else 0,
        fields=w.struct,
    )


def write_files(folder: Path, name: str, source: str, header: str) -> Path:
    """Write ``NAME.c`` and ``NAME.h`` into ``folder`` and return the path of ``NAME.c``."""
    files.write_text(folder / f"{name}.c", source)
    files.write_text(folder / f"{name}.h", header)
    return folder / f"{name}.c"


def _count_actions(model: MLPModel) -> int:
    if model.distribution is not None:
        return model.distribution.output_dim
    linear = (module for module in reversed(list(model.mlp)) if isinstance(module, torch.nn.Linear))
    return next(linear).out_features


def format_comment(text: str) -> str:
    """Return ``text`` as lines of a C comment."""
    return textwrap.fill(text, 110, initial_indent="// ", subsequent_indent="// ")
