"""Codecs with a state, and running normalisation of observations, survive saving and both exports."""

import pytest
import torch
from tensordict import TensorDict

from spiky_rl.learners.rsl_rl import SpikingModel
from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.point_env import LIF

INPUTS, ACTIONS, CONTROL_STEPS = 4, 2, 12
SIGMA_DELTA = {
    "steps": 1,
    "encoder": "sigma_delta",
    "connection": {"name": "linear", "offset": 0.0, "spread": 0.0},
    "neuron": "sigma_delta",
    "decoder": "sigma_delta",
}


def model(network, seed=0, **settings):
    torch.manual_seed(seed)
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0}
    obs = observations(torch.zeros(1, INPUTS))
    return SpikingModel(
        *(obs, {"actor": ["policy"]}, "actor", ACTIONS),
        distribution_cfg=gaussian,
        network={"name": "feedforward", "layers": [16, 12], "backend": "torch", **network},
        **settings,
    )


def observations(x):
    return TensorDict({"policy": x}, batch_size=[x.shape[0]])


def walk(scale=0.3):
    steps = torch.randn(CONTROL_STEPS, 1, INPUTS, generator=torch.Generator().manual_seed(1))
    return (scale * steps).cumsum(0)


NETWORKS = {
    "delta stateful": {**LIF, "encoder": "delta", "decoder": "sigma_delta", "stateful": True},
    "delta": {**LIF, "encoder": "delta", "decoder": "first_spike"},
    "sigma-delta stateful": {**SIGMA_DELTA, "stateful": True},
}


@pytest.mark.parametrize(
    "case",
    [
        "sigma-delta stateful",
        pytest.param("delta", marks=pytest.mark.slow),
        pytest.param("delta stateful", marks=pytest.mark.slow),
    ],
)
def test_exports_equal_the_live_policy_and_start_again_from_rest(case, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported graph")
    live = perturb_learned_values(model(NETWORKS[case]).eval())
    scripted, wrapped = torch.jit.script(live.as_jit()), live.as_onnx()
    names = {"input_names": wrapped.input_names, "output_names": wrapped.output_names}
    # as rsl_rl's runner does it
    torch.onnx.export(
        wrapped,
        wrapped.get_dummy_inputs(),
        tmp_path / "policy.onnx",
        opset_version=18,
        verbose=False,
        **names,
    )
    graph = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    rest = torch.zeros(1, sum(live.network.state_sizes)).numpy()
    actions = []
    with torch.inference_mode():
        for _ in range(2):
            state = rest
            scripted.reset()
            live.reset()
            for x in walk():
                action = live(observations(x))
                feed = {"obs": x.numpy(), **({"state_in": state} if live.is_recurrent else {})}
                outputs = graph.run(None, feed)
                assert torch.equal(scripted(x), action)
                assert torch.allclose(torch.from_numpy(outputs[0]), action, atol=1e-5)
                state = outputs[1] if live.is_recurrent else rest
                actions.append(action)
    assert all(
        torch.equal(a, b) for a, b in zip(actions[:CONTROL_STEPS], actions[CONTROL_STEPS:], strict=True)
    )
    assert torch.stack(actions).std() > 0.01


@pytest.mark.parametrize("encoder", ["rate", "latency", "population"])
def test_running_normalisation_is_saved_and_exported_with_a_range_limited_encoder(encoder):
    network = {**LIF, "encoder": encoder}
    live = model(network, obs_normalization=True)
    perturb_learned_values(live.network)
    raw = torch.randn(200, INPUTS, generator=torch.Generator().manual_seed(2)) * 4.0 + 100.0
    with torch.inference_mode():
        unnormalised = live.eval()(observations(raw))
        assert unnormalised.std(0).max() < 1e-6, "all beyond the span"
        live.train().update_normalization(observations(raw))
        action = live.eval()(observations(raw))
        assert action.std(0).min() > 0.01, "observations are told apart"
        loaded = model(network, seed=1, obs_normalization=True).eval()
        assert not torch.allclose(loaded(observations(raw)), action)
        loaded.load_state_dict(live.state_dict())
        assert torch.equal(loaded(observations(raw)), action)
        scripted = torch.jit.script(loaded.as_jit())
        for i in range(5):
            # a matrix product of one row may round otherwise than one of many
            assert torch.equal(scripted(raw[i : i + 1]), live(observations(raw[i : i + 1])))
    assert live.obs_normalizer.mean.mean().item() == pytest.approx(100.0, abs=1.0)
