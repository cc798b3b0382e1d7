"""Writer of ``policy.c`` and ``policy.h`` from a policy."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spiky_rl.config import files
from spiky_rl.deploy._c_ann import (
    format_action,
    get_commands,
    get_observation_scale,
    write_action,
    write_recurrent,
)
from spiky_rl.deploy._c_functions import ARITHMETIC, ARITHMETIC_TEXT, BOUNDS_TEXT, HEADER, SOURCE
from spiky_rl.deploy._c_network import NetworkWriter, Signal
from spiky_rl.deploy._contract import PolicyContract, format_contract, format_macros
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy._int8_text import Int8Writer, describe_values
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import ANNS, count_observations, get_class_name
from spiky_rl.kernels.emit import format_literal
from spiky_rl.learners.common.inference_policy import BOUND
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
    writer, actions = NetworkWriter(width), _count_actions(model)
    observed, count = write_observations(writer, model)
    with torch.no_grad():
        if isinstance(model, SpikingModel):
            network = copy.deepcopy(model.network).cpu()
            features, stateful = writer.write_network(network, observed, count), network.stateful
        else:
            signal, stateful = Signal(observed, count, False), hasattr(model, "rnn")
            if (kind := get_class_name(model)) not in ANNS:
                raise ExportError(f"agent.actor.class_name: {kind} given; allowed for c: {', '.join(ANNS)}")
            rnn: Any = getattr(model, "rnn", None)
            signal = write_recurrent(writer, rnn.rnn, signal) if stateful else signal
            features = writer.write_mlp("mlp", model.mlp, signal)
    writer.comment("action", writer.last)
    action = format_action(model.distribution, features.array, actions, writer.memory)
    write_action(writer, model.distribution, action, actions)
    source = format_source(writer, name, stateful)
    header = format_header(writer, model, BOUNDS_TEXT.format(bound=f"{BOUND:g}"), name, stateful, contract)
    return write_files(folder, name, source, header)


def write_integers(
    model: SpikingModel,
    network: IntegerNetwork,
    folder: Path,
    name: str = "policy",
    contract: PolicyContract | None = None,
) -> Path:
    """Write ``model`` with the quantised ``network``; the other arguments are those of `write_policy`."""
    writer = Int8Writer()
    action = writer.write_integers(network, *write_observations(writer, model))
    write_action(writer, model.distribution, action, _count_actions(model))
    source = format_source(writer, name, network.stateful)
    header = format_header(writer, model, describe_values(network), name, network.stateful, contract)
    return write_files(folder, name, source, header)


def write_observations(writer: NetworkWriter, model: MLPModel) -> tuple[str, int]:
    """Write the normalisation of the observations; return their C array and their number."""
    memory, count = writer.memory, count_observations(model)
    observed = memory.add_field("float", "input", count, "observation after normalisation")
    read, limit = "observation[c]", BOUND
    if (scale := get_observation_scale(model.obs_normalizer)) is not None:
        mean = memory.format_element("obs_normalizer_mean", scale[0], "c")
        divisor = memory.format_element("obs_normalizer_divisor", scale[1], "c")
        read, limit = f"(observation[c] - {mean}) / {divisor}", min(BOUND, scale[2])
    call = f"{memory.use_function('observed')}({read}, {format_literal(limit)})"
    writer.comment("observations, normalised", writer.once)
    writer.once.append(writer.format_loop(count, f"{observed}[c] = {call};", index="c"))
    return observed, count


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


def format_source(writer: NetworkWriter, name: str, stateful: bool) -> str:
    """Return the text of ``NAME.c`` of the statements in ``writer``; ``stateful``: whether state is kept between control steps."""
    memory, body = writer.memory, format_body(writer, stateful)  # the body declares helper functions
    return SOURCE.format(
        name=name,
        NAME=name.upper(),
        math="#include <math.h>\n" if memory.needs_math else "",
        arithmetic=ARITHMETIC,
        index=memory.index_type,
        helpers=memory.helpers,
        constants="\n".join(memory.constants.values()),
        body=body,
    )


def format_header(
    writer: NetworkWriter,
    model: MLPModel,
    notes: str,
    name: str,
    stateful: bool,
    contract: PolicyContract | None,
) -> str:
    """Return the text of ``NAME.h``.

    Args:
        writer: The declarations of the file.
        model: The policy.
        notes: Sentences on invalid values.
        name: Prefix of all names that other files see.
        stateful: Whether state is kept between control steps.
        contract: Description of the policy's place in its environment, or None.
    """
    memory, commands = writer.memory, get_commands(model.distribution)
    inputs, outputs = count_observations(model), _count_actions(model)
    return HEADER.format(
        name=name,
        NAME=name.upper(),
        usage=format_comment(make_metadata(model, {}, {}, [], "", "")["usage"]),
        contract="".join(
            f"// {line}\n" for line in format_contract(contract, name, inputs, outputs, commands)
        ),
        macros=format_macros(contract, name, commands),
        flash=memory.constant_bytes,
        notes=format_comment(notes),
        arithmetic=format_comment(ARITHMETIC_TEXT),
        inputs=inputs,
        outputs=outputs,
        bytes=memory.size,
        carried=memory.state_bytes if stateful else 0,
        fields=memory.struct,
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
