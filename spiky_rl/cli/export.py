"""Export of a policy, with the proof that what was written is the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spiky_rl.cli.common import UsageError, log
from spiky_rl.cli.display import Bar
from spiky_rl.hosts.rsl_rl.model import SpikingModel

ONNX_TOLERANCE = 1e-4
"""Largest difference of an action that counts as equal; runtimes sum in different orders."""
ONNX_FLIPS = 0.01
"""Fraction of control steps that may differ by more: one spike at its threshold can fall on either side of it."""


def export(runner: Any, env: Any, folder: Path) -> dict[str, Any]:
    """Write ``policy.pt`` and ``policy.onnx`` and compare both with the live policy over a whole episode.

    Exports hold the torch reference of every neuron, so a spiking policy runs on it here. TorchScript runs free with its own
    state and must give the very same actions. ONNX gets the live policy's state in
    every control step, and its action and its new state must agree. Raises UsageError where they do not.
    """
    policy = runner.alg.get_policy()
    with Bar("exporting", "TorchScript, ONNX") as shown:
        runner.export_policy_to_jit(str(folder))
        shown(0.2)
        _export_onnx(runner, folder)
    scripted = torch.jit.load(folder / "policy.pt")
    graph = _session(folder / "policy.onnx")
    policy.to("cpu")
    network = policy.network if isinstance(policy, SpikingModel) else None
    backend = network.backend if network else ""
    if network:
        network.run_on("torch")
    worst_script = worst_graph = 0.0
    steps = flips = 0
    with torch.inference_mode(), Bar("comparing exports", "over an episode") as shown:
        env.reset()
        policy.reset()
        scripted.reset()
        while True:
            obs = env.get_observations()[:1].to("cpu")
            x = torch.cat([obs[group] for group in policy.obs_groups], dim=-1)
            before = _state(policy)
            action = policy(obs)
            worst_script = max(worst_script, _difference(scripted(x), action))
            if graph is not None:
                difference = _graph_difference(graph, x, before, action, _state(policy))
                flips += difference > ONNX_TOLERANCE
                worst_graph = max(worst_graph, difference if difference <= ONNX_TOLERANCE else 0.0)
            steps += 1
            whole = torch.zeros(env.num_envs, env.num_actions, device=env.device)
            whole[:1] = action.to(env.device)
            _, _, dones, _ = env.step(whole)
            if dones[0]:
                break
            shown(steps / env.max_episode_length)
    if network:
        network.run_on(backend)
    policy.to(runner.device)
    policy.reset()
    if worst_script > 0.0:
        raise UsageError(
            f"{folder / 'policy.pt'}: actions differ from the live policy's by up to {worst_script:.2g}"
        )
    log.info(
        "exported %s: equal to the live policy in all %d control steps of an episode",
        folder / "policy.pt",
        steps,
    )
    if graph is not None:
        if flips > ONNX_FLIPS * steps:
            raise UsageError(
                f"{folder / 'policy.onnx'}: actions differ from the live policy's in {flips} of {steps} control steps"
            )
        log.info(
            "exported %s: equal within %.1g in %d of %d control steps",
            folder / "policy.onnx",
            worst_graph,
            steps - flips,
            steps,
        )
    return {
        "steps": steps,
        "script_difference": worst_script,
        "onnx_difference": worst_graph,
        "onnx_flips": flips,
    }


def _export_onnx(runner: Any, folder: Path) -> None:
    """As `OnPolicyRunner.export_policy_to_onnx`, without its progress on the terminal."""
    import contextlib
    import io
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter about itself
        runner.export_policy_to_onnx(str(folder))


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        log.warning(
            "onnxruntime is not installed: %s was written but not compared (pip install onnxruntime)", path
        )
        return None
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _state(policy: Any) -> list[torch.Tensor]:
    """The recurrent state as the graph takes it: one flat tensor of a spiking policy, rsl_rl's own tensors otherwise."""
    if isinstance(policy, SpikingModel):
        if not policy.network.stateful:
            return []
        rest = torch.zeros(1, sum(policy.network.state_sizes))
        return [rest if policy.state is None else torch.cat([s[0] for s in policy.state], -1)]
    if not policy.is_recurrent:
        return []
    state = policy.get_hidden_state()
    if state is None:
        rnn = policy.rnn.rnn
        return [torch.zeros(rnn.num_layers, 1, rnn.hidden_size)] * (
            2 if isinstance(rnn, torch.nn.LSTM) else 1
        )
    return list(state) if isinstance(state, tuple) else [state]


def _graph_difference(
    graph: Any, x: torch.Tensor, before: list[torch.Tensor], action: torch.Tensor, after: list[torch.Tensor]
) -> float:
    feed = {i.name: v.numpy() for i, v in zip(graph.get_inputs(), [x, *before], strict=True)}
    outputs = [torch.from_numpy(value) for value in graph.run(None, feed)]
    return max(_difference(a, b) for a, b in zip(outputs, [action, *after], strict=True))


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()
