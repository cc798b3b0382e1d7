"""Exported files say how they are to be run: names, shapes, rest and what an episode's end asks for."""

import json

import numpy as np
import pytest
import torch

from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import mark_slow
from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.point_env import LIF, PointEnv, config

CONTROL_STEPS, TOLERANCE = 60, 1e-5
GRU = {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 8, "rnn_num_layers": 1}
LSTM = {**GRU, "rnn_type": "lstm"}
CASES = {
    "stateful": ({**LIF, "stateful": True, "layers": [16, 12]}, {}, 1),
    "stateless": ({**LIF, "layers": [16, 12]}, {}, 0),
    "MLP": (None, {}, 0),
    "GRU": (None, GRU, 1),
    "LSTM": (None, LSTM, 2),
}
"""Network, settings of the actor, state tensors that a file has."""


def runner(network, actor):
    torch.manual_seed(0)
    settings = config(network)
    settings["actor"] |= actor
    run = RslRlRunner(PointEnv(1), settings)
    perturb_learned_values(run.alg.actor.eval())
    if network is not None:
        run.alg.actor.network.set_backend("torch")  # the exports run the reference
    return run


def stranger(path):
    """A policy (observation, whether an episode begins) -> action that knows of the file what its metadata say, no more."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported graph")
    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    said = graph.get_modelmeta().custom_metadata_map
    state, ((obs, shape),) = json.loads(said["state"]), json.loads(said["observations"]).items()
    ((action, _),) = json.loads(said["actions"]).items()
    held = {}

    def act(observation, begins):
        if begins:
            held.update({s["input"]: np.full(s["shape"], s["rest"], np.float32) for s in state})
        outputs = graph.run(None, {obs: observation.reshape(shape), **held})
        given = dict(zip([each.name for each in graph.get_outputs()], outputs, strict=True))
        held.update({s["input"]: given[s["output"]] for s in state})
        return given[action]

    return act, state, said


@pytest.mark.parametrize("case", mark_slow(CASES, ["stateful", "LSTM"]))
def test_who_knows_the_metadata_alone_runs_the_policy_through_its_episodes(case, tmp_path):
    network, actor, states = CASES[case]
    run = runner(network, actor)
    (tmp_path / "policy.onnx.data").write_bytes(b"of an export by another version")
    run.export_policy_to_onnx(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"], "one file, without older weights"
    act, state, said = stranger(tmp_path / "policy.onnx")
    assert len(state) == states
    assert "policy" in said["usage"] and ("rest" in said["episode_begins"]) == bool(states)
    obs, begins, ended = run.env.get_observations(), True, 0
    with torch.inference_mode():
        for _ in range(CONTROL_STEPS):
            action = run.alg.actor(obs)
            found = act(obs["policy"].numpy(), begins)
            assert np.abs(found - action.numpy()).max() < TOLERANCE
            obs, _, dones, _ = run.env.step(action)
            run.alg.actor.reset(dones)
            begins = bool(dones)
            ended += begins
    assert ended > 2


@pytest.mark.parametrize("case", ["stateful", "stateless"])
def test_torchscript_says_what_it_is_too(case, tmp_path):
    network, actor, states = CASES[case]
    run = runner(network, actor)
    run.export_policy_to_jit(str(tmp_path))
    said = json.loads(torch.jit.load(tmp_path / "policy.pt").about)
    width = sum(run.alg.actor.network.state_sizes)
    assert said["state"] == ([{"shape": [1, width], "rest": 0.0}] if states else [])
    assert ("reset()" in said["episode_begins"]) == bool(states)
    assert said["observations"] == {"x": [1, 4]}
