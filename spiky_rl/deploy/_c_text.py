"""Writer of ``policy.c`` and ``policy.h`` from a policy."""

from __future__ import annotations

import copy
import math
import textwrap
from pathlib import Path
from typing import Any

import torch
from rsl_rl.models import MLPModel, RNNModel

from spiky_rl.config import files
from spiky_rl.deploy._c_ann import format_action, get_observation_scale, write_recurrent
from spiky_rl.deploy._c_functions import ARITHMETIC, ARITHMETIC_TEXT, BOUNDS_TEXT, HEADER, SOURCE
from spiky_rl.deploy._c_memory import Declarations
from spiky_rl.deploy._c_network import NetworkWriter, Signal
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.inference_policy import BOUND
from spiky_rl.deploy._program import ExportError
from spiky_rl.learners.rsl_rl.model import BurnInMLPModel, SpikingModel

ANNS = (MLPModel, RNNModel, BurnInMLPModel)
"""Models without spikes that have a form in C."""


def write_policy(model: MLPModel, folder: Path, usage: str, width: int, name: str = "policy") -> Path:
    """Write ``NAME.c`` and ``NAME.h`` into ``folder``, which is created if missing, and return the path of ``NAME.c``.

    Args:
        model: The policy.
        folder: The folder.
        usage: Description of inputs and outputs, for the header.
        width: Floats in a vector of the `cpu` backend on this machine. The backend does not fuse products with fewer outputs.
        name: Prefix of all names that other files see.

    Raises ExportError, with the agent's key, if a part has no form in C.
    """
    writer, actions = NetworkWriter(width), _count_actions(model)
    memory = writer.memory
    count = _count_observations(model)
    observed = memory.add_field("float", "input", count, "observation after normalisation")
    read, limit = "observation[c]", BOUND
    if (scale := get_observation_scale(model.obs_normalizer)) is not None:
        mean = memory.format_element("obs_normalizer_mean", scale[0], "c")
        divisor = memory.format_element("obs_normalizer_divisor", scale[1], "c")
        read, limit = f"(observation[c] - {mean}) / {divisor}", min(BOUND, scale[2])
    call = f"{memory.use_function('observed')}({read}, {format_literal(limit)})"
    writer.comment("observations, normalised", writer.once)
    writer.once.append(writer.format_loop(count, f"{observed}[c] = {call};", index="c"))
    with torch.no_grad():
        if isinstance(model, SpikingModel):
            network = copy.deepcopy(model.network).cpu()
            features, stateful = writer.write_network(network, observed, count), network.stateful
        else:
            signal, stateful = Signal(observed, count, False), isinstance(model, RNNModel)
            if type(model) not in ANNS:
                known = ", ".join(kind.__name__ for kind in ANNS)
                raise ExportError(
                    f"agent.actor.class_name: {type(model).__name__} given; allowed for c: {known}"
                )
            rnn: Any = getattr(model, "rnn", None)
            signal = write_recurrent(writer, rnn.rnn, signal) if stateful else signal
            features = writer.write_mlp("mlp", model.mlp, signal)
    writer.comment("action", writer.last)
    action = format_action(model.distribution, features.array, actions, memory)
    writer.last.append(writer.format_loop(actions, f"action[n] = {action};"))
    body = format_body(writer, stateful)
    notes = format_comment(BOUNDS_TEXT.format(bound=f"{BOUND:g}"))
    return write_files(
        folder, name, *format_files(name, memory, body, usage, notes, count, actions, stateful)
    )


def format_body(writer: NetworkWriter, stateful: bool) -> str:
    """Return the statements of a control step; state of a network that is not ``stateful`` begins at zero in each."""
    fields = writer.memory.fields.values()
    carried = [field for field in fields if field.carried]
    first, after = [], []
    if carried and not stateful:
        first.append("// every control step begins at rest")
        first += [f"memset(s->{field.name}, 0, sizeof s->{field.name});" for field in carried]
    elif any(field.kind == "float" for field in carried):
        keep = writer.memory.use_function("keep_finite")
        after = ["\n// state"] + [f"{keep}(s->{f.name}, {f.size});" for f in carried if f.kind == "float"]
    lines = ["int events;", *first, *writer.once]
    if writer.step:
        step = textwrap.indent("\n".join(writer.step), "  ")
        lines += [f"\nfor (int k = 0; k < {writer.steps}; k++) {{  // inner steps{step}", "}"]
    return textwrap.indent("\n".join([*lines, *writer.last, *after]), "  ")


def format_files(
    name: str,
    memory: Declarations,
    body: str,
    usage: str,
    notes: str,
    inputs: int,
    outputs: int,
    stateful: bool,
) -> tuple[str, str]:
    """Return the texts of ``NAME.c`` and ``NAME.h``.

    Args:
        name: Prefix of all names that other files see.
        memory: Declarations of the file.
        body: Statements of a control step.
        usage: Description of inputs and outputs.
        notes: Comment of the header on invalid values.
        inputs: Number of observations.
        outputs: Number of actions.
        stateful: Whether state is kept between control steps.
    """
    names = {"name": name, "NAME": name.upper()}
    source = SOURCE.format(
        **names,
        note="",
        math="#include <math.h>\n" if memory.needs_math else "",
        arithmetic=ARITHMETIC,
        index=memory.index_type,
        helpers=memory.helpers,
        constants="\n".join(memory.constants.values()),
        body=body,
    )
    header = HEADER.format(
        **names,
        usage=format_comment(usage),
        notes=notes,
        arithmetic=format_comment(ARITHMETIC_TEXT),
        inputs=inputs,
        outputs=outputs,
        bytes=memory.size,
        carried=memory.carried if stateful else 0,
        fields=memory.struct,
    )
    return source, header


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


def _count_observations(model: MLPModel) -> int:
    return math.prod(model.input_shape) if isinstance(model, SpikingModel) else model.obs_dim


def format_comment(text: str) -> str:
    """Return ``text`` as lines of a C comment."""
    return textwrap.fill(text, 110, initial_indent="// ", subsequent_indent="// ")
