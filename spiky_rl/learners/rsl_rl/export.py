"""Export of a trained policy to TorchScript and ONNX.

Both run the torch reference step. The state is one flat tensor [1, S], initially zero. The files describe themselves, see
`make_metadata`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from spiky_rl.config import files
from spiky_rl.config.plain_data import format_value
from spiky_rl.kernels import dispatch
from spiky_rl.learners.common.inference_policy import clamp_observations, reset_nonfinite

if TYPE_CHECKING:
    from rsl_rl.models import MLPModel

    from spiky_rl.learners.rsl_rl.model import SpikingModel

MEAN_ACTIONS = "Actions are the mean of the policy, as the environment takes them."
LARGEST_FILE = 2**31 - 2**24
"""Maximum bytes of weights in one ONNX file (a protobuf); larger weights are written to a separate file."""


def write_onnx(model: MLPModel, path: Path, verbose: bool = False) -> None:
    """Write any model of rsl_rl or ours as one ONNX file with the metadata of `make_metadata`, without traces of the source files.

    Above 2 GB the weights are written to ``path``.data. ``verbose``: whether torch prints its progress.
    """
    import onnx

    # rsl_rl's export modules have input_names and output_names, but their types do not declare them
    wrapped: Any = model.as_onnx(verbose=verbose).to("cpu").eval()
    example = wrapped.get_dummy_inputs()
    size = sum(t.numel() * t.element_size() for t in (*wrapped.parameters(), *wrapped.buffers()))
    with torch.no_grad():
        outputs = wrapped(*example)
    # rsl_rl's GRU returns None in place of the LSTM's cell state
    outputs = [x for x in outputs if x is not None] if isinstance(outputs, tuple) else [outputs]
    # the first output is the action, and the others are states; the last inputs are the same states
    n_observations = len(wrapped.input_names) - (len(outputs) - 1)
    inputs = list(zip(wrapped.input_names, example, strict=True))
    described = make_metadata(
        model,
        {name: list(x.shape) for name, x in inputs[:n_observations]},
        {wrapped.output_names[0]: list(outputs[0].shape)},
        [
            {"input": name, "output": output_name, "shape": list(x.shape), "rest": 0.0}
            for (name, x), output_name in zip(inputs[n_observations:], wrapped.output_names[1:], strict=True)
        ],
        "After each call give every state output to the state input of the next call.",
        "give every state input its rest value, in every element",
    )
    # also replaces the weights file of an earlier export
    with files.stage_files(path.parent, [f"{path.name}.data"]) as folder:
        staged = str(folder / path.name)
        torch.onnx.export(
            wrapped, example, staged, opset_version=18, verbose=verbose, external_data=size > LARGEST_FILE,
            input_names=wrapped.input_names, output_names=wrapped.output_names,
        )  # fmt: skip
        graph = onnx.load(staged, load_external_data=False)
        clear_origin(graph)
        onnx.helper.set_model_props(graph, {key: format_value(value) for key, value in described.items()})
        onnx.save(graph, staged)


def clear_origin(message: Any) -> None:
    """Clear torch's references to source files and lines in every part of an ONNX ``message``."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE and field.name != "initializer":
            for part in value if field.is_repeated else (value,):
                clear_origin(part)


def write_torchscript(model: MLPModel, path: Path) -> None:
    """Write any model of rsl_rl or ours as TorchScript, described in the attribute ``about``, without traces of the source files."""
    # a copy; without requires_grad_ its state would keep the autograd graph of all earlier control steps
    policy = model.as_jit().to("cpu").eval().requires_grad_(False)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(policy), script)

    def write_content(temporary: Path) -> None:
        with zipfile.ZipFile(script) as archive, zipfile.ZipFile(temporary, "w") as file:
            for part in archive.infolist():
                # source lines for error messages; libtorch does not need them
                if not part.filename.endswith(".debug_pkl"):
                    file.writestr(part, archive.read(part))

    files.write_atomically(path, write_content)


def make_metadata(
    model: MLPModel,
    observations: Mapping[str, object],
    actions: Mapping[str, object],
    state: Sequence[Mapping[str, object]],
    between: str,
    begins: str,
) -> dict[str, Any]:
    """Return the description of an exported file, for use without this package.

    An ONNX file has it as metadata, with non-text values as JSON; a TorchScript file as JSON in the attribute ``about``.

    Args:
        model: The exported model.
        observations: Names and shapes of the observation inputs.
        actions: Name and shape of the output.
        state: Input, output, shape and initial value of each state.
        between: Instruction for the state between control steps.
        begins: Instruction for the state at the start of an episode.
    """
    groups = ", ".join(model.obs_groups)
    actions_text = getattr(model.distribution, "actions_text", MEAN_ACTIONS)
    return {
        "producer": "spiky_rl",
        "usage": f"One call per control step and robot. Observations are the task's groups {groups}, in this order, as the"
        f" environment gives them; normalisation is inside. {actions_text}"
        + (f" {between}" if state else ""),
        "observations": observations,
        "actions": actions,
        "state": state,
        "episode_begins": begins if state else "nothing is carried from one control step to the next",
    }


@contextlib.contextmanager
def _ignore_tracer_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        yield


class _ControlStep(nn.Module):
    """Control step as a pure function: observation [B, O] or [B, C, H, W] and flat state [B, S] -> action and flat state."""

    def __init__(self, model: SpikingModel) -> None:
        """Copy the parts of a ``model``."""
        super().__init__()
        self.obs_normalizer = copy.deepcopy(model.obs_normalizer).cpu()
        self.network = copy.deepcopy(model.network).cpu()
        self.network.set_backend(dispatch.REFERENCE)
        self.output_shape = model.output_shape
        output = (
            nn.Identity()
            if model.distribution is None
            else model.distribution.as_deterministic_output_module()
        )
        self.deterministic_output = output.cpu()
        self.sizes = list(self.network.state_sizes)
        self.is_recurrent = self.network.stateful
        self.example = torch.zeros(1, *model.input_shape), torch.zeros(1, sum(self.sizes))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        network_input = clamp_observations(self.obs_normalizer(x.flatten(1))).unsqueeze(0)
        if self.is_recurrent:
            before = tuple(part.unsqueeze(0) for part in state.split(self.sizes, dim=-1))
            features, after = self.network(network_input, before)
            state = torch.cat([part.squeeze(0) for part in reset_nonfinite(after)], dim=-1)
        else:  # without a state, as the policy acts: some encoders give another signal for a zero state
            features, _ = self.network(network_input, None)
        return self.deterministic_output(features.squeeze(0).unflatten(-1, self.output_shape)), state


class JitPolicy(nn.Module):
    """Module for ``torch.jit.script`` with internal state of one environment, like rsl_rl's; without a state, of any batch size."""

    def __init__(self, model: SpikingModel) -> None:
        """Copy a ``model``."""
        super().__init__()
        core = _ControlStep(model).eval()
        self.is_recurrent = core.is_recurrent
        self.register_buffer("state", torch.zeros_like(core.example[1]))
        self.state: Tensor
        states = [{"shape": list(self.state.shape), "rest": 0.0}] if core.is_recurrent else []
        shapes = {"x": list(core.example[0].shape)}, {"": [1, *model.output_shape]}
        self.about: str = json.dumps(
            make_metadata(
                model, *shapes, states, "The state is inside, and a call advances it.", "call reset()"
            )
        )
        with torch.no_grad(), _ignore_tracer_warnings():
            # control flow depends only on shapes, which are fixed in an export
            self.core: Any = torch.jit.trace(core, core.example, check_trace=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return action [1, A] for observation ``x`` [1, O] or [1, C, H, W], and advance the state; without a state, any batch."""
        action, state = self.core(x, self.state.expand(x.shape[0], -1))
        if self.is_recurrent:
            self.state[:] = state
        return action

    @torch.jit.export
    def reset(self) -> None:
        """Reset the state to zero, as at the start of an episode."""
        self.state[:] = 0.0


class OnnxPolicy(nn.Module):
    """Module for ``torch.onnx.export``: ``obs -> actions``, or ``obs, state_in -> actions, state_out`` if stateful."""

    def __init__(self, model: SpikingModel) -> None:
        """Copy a ``model``."""
        super().__init__()
        self.core = _ControlStep(model)
        self.is_recurrent = self.core.is_recurrent

    def forward(self, obs: Tensor, state_in: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return action [1, A] and state for ``obs`` [1, O] or [1, C, H, W] and ``state_in`` [1, S]; only the action if stateless."""
        # a host's exporter traces; control flow depends only on shapes, as in `JitPolicy`
        is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        with _ignore_tracer_warnings() if is_tracing else contextlib.nullcontext():
            if state_in is None:
                return self.core(obs, obs.new_zeros(obs.shape[0], self.core.example[1].shape[1]))[0]
            return self.core(obs, state_in)

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        """Return example inputs of the right shapes."""
        return self.core.example if self.is_recurrent else self.core.example[:1]

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs."""
        return ["obs", "state_in"] if self.is_recurrent else ["obs"]

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return ["actions", "state_out"] if self.is_recurrent else ["actions"]
