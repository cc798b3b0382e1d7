"""A trained policy without Python: TorchScript and ONNX, state explicit.

Both run the torch reference step. The state is one flat tensor [1, S], rest is zero.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

if TYPE_CHECKING:
    from spiky_rl.hosts.rsl_rl.model import SpikingModel


class _Core(nn.Module):
    """One control step as a pure function: observation [B, O] or [B, C, H, W] and flat state [B, S] -> action and flat state."""

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        self.obs_normalizer = copy.deepcopy(model.obs_normalizer).cpu()
        self.network = copy.deepcopy(model.network).cpu()
        self.network.run_on("torch")
        self.output_shape = model.output_shape
        output = (
            nn.Identity()
            if model.distribution is None
            else model.distribution.as_deterministic_output_module()
        )
        self.deterministic_output = output.cpu()
        self.sizes = list(model.network.state_sizes)
        self.is_recurrent = model.network.stateful
        self.example = torch.zeros(1, *model.input_shape), torch.zeros(1, sum(self.sizes))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        before = tuple(part.unsqueeze(0) for part in state.split(self.sizes, dim=-1))
        features, after = self.network(self.obs_normalizer(x.flatten(1)).unsqueeze(0), before)
        action = self.deterministic_output(features.squeeze(0).unflatten(-1, self.output_shape))
        return action, torch.cat([part.squeeze(0) for part in after], dim=-1)


class JitPolicy(nn.Module):
    """For ``torch.jit.script``: one environment, its state inside, as rsl_rl's own recurrent exports."""

    def __init__(self, model: SpikingModel) -> None:
        super().__init__()
        core = _Core(model).eval()
        self.is_recurrent = core.is_recurrent
        self.register_buffer("state", torch.zeros_like(core.example[1]))
        self.state: Tensor
        with torch.no_grad(), warnings.catch_warnings():
            # control flow depends on shapes alone, and those are the ones the export is for
            warnings.simplefilter("ignore", TracerWarning)
            self.core: Any = torch.jit.trace(core, core.example, check_trace=False)

    def forward(self, x: Tensor) -> Tensor:
        """Observation [1, O] or [1, C, H, W] -> action [1, A]; advances the state."""
        action, state = self.core(x, self.state)
        if self.is_recurrent:
            self.state[:] = state
        return action

    @torch.jit.export
    def reset(self) -> None:
        """Put the state at rest, as at the start of an episode."""
        self.state[:] = 0.0


class OnnxPolicy(nn.Module):
    """For ``torch.onnx.export``: ``obs -> actions``, or ``obs, state_in -> actions, state_out`` if stateful."""

    def __init__(self, model: SpikingModel, verbose: bool) -> None:
        super().__init__()
        self.core = _Core(model)
        self.is_recurrent = self.core.is_recurrent
        self.verbose = verbose
        self.input_size = model.obs_dim

    def forward(self, obs: Tensor, state_in: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Observation [1, O] or [1, C, H, W] and state [1, S] -> action [1, A] and state."""
        if state_in is None:
            return self.core(obs, obs.new_zeros(obs.shape[0], self.core.example[1].shape[1]))[0]
        return self.core(obs, state_in)

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes."""
        return self.core.example if self.is_recurrent else self.core.example[:1]

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs."""
        return ["obs", "state_in"] if self.is_recurrent else ["obs"]

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return ["actions", "state_out"] if self.is_recurrent else ["actions"]
