"""Images in the rsl_rl host: what a spiking actor sees, replays, exports and refuses."""

import pytest
import torch
from rsl_rl.models import CNNModel

from spiky_rl.config.registry import RegistryError
from spiky_rl.config.spec import SpecError, resolve_agent
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.metrics.synops import dense_operations
from tests.hosts.image_env import CONVOLUTIONAL, SIZE, ImageEnv
from tests.hosts.point_env import config
from tests.hosts.test_rsl_rl_model import replayed_difference, rollout

CNN = {"output_channels": [4, 5], "kernel_size": [3, 3], "stride": [1, 2], "activation": "relu"}
GROUPS = {"actor": ["policy"], "critic": ["critic"]}


def runner(network=None, num_envs=8, groups=None, **actor) -> RslRlRunner:
    torch.manual_seed(0)
    settings = config({**CONVOLUTIONAL, **(network or {})})
    settings["obs_groups"] = groups or GROUPS
    settings["actor"] |= actor
    return RslRlRunner(ImageEnv(num_envs), settings)


@pytest.mark.parametrize("stateful", [False, True])
def test_replay_gives_the_stored_log_probabilities(stateful):
    run = runner({"stateful": stateful})
    assert [layer.connection.shape for layer in run.alg.actor.network.layers] == [
        (6, 9, 10),
        (8, 3, 4),
        (16,),
    ]
    for _ in range(2):
        rollout(run)
        assert run.alg.storage.dones.sum() > 8
        assert replayed_difference(run) < 1e-5
        run.alg.storage.clear()


def test_the_network_sees_the_image_with_its_columns_fastest_and_a_dense_one_sees_it_flat():
    run = runner()
    obs = run.env.get_observations()
    seen = run.alg.actor.get_latent(obs)
    assert torch.equal(seen, obs["policy"].flatten(1))
    assert torch.equal(seen.view(-1, *SIZE), obs["policy"])
    dense = runner({"layers": [16], "connection": "linear"})
    assert dense.alg.actor.network.layers[0].connection.in_features == seen.shape[1]


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.slow
def test_exports_take_images_and_equal_the_live_policy(stateful, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported graph")
    run = runner({"stateful": stateful}, num_envs=1)
    actor = run.alg.actor.eval()
    actor.network.set_backend("torch")
    run.export_policy_to_jit(str(tmp_path))
    run.export_policy_to_onnx(str(tmp_path))
    scripted = torch.jit.load(tmp_path / "policy.pt")
    graph = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    assert graph.get_inputs()[0].shape == [1, *SIZE]
    feed = {"state_in": torch.zeros(1, sum(actor.network.state_sizes)).numpy()} if stateful else {}
    obs = run.env.get_observations()
    with torch.inference_mode():
        for _ in range(12):
            action = actor(obs)
            outputs = graph.run(None, {"obs": obs["policy"].numpy(), **feed})
            assert torch.equal(scripted(obs["policy"]), action)
            assert torch.allclose(torch.from_numpy(outputs[0]), action, atol=1e-5)
            if stateful:
                feed["state_in"] = outputs[1]
            obs, _, dones, _ = run.env.step(action)
            if dones.item():
                break


def test_images_beside_vectors_and_their_normalisation_are_refused():
    with pytest.raises(
        RegistryError, match=r"obs_groups.actor: .*one group of images; got policy: \[2, 9, 10\]"
    ):
        runner(groups={"actor": ["policy", "critic"], "critic": ["critic"]})
    with pytest.raises(
        RegistryError, match="agent.actor.obs_normalization: true is not available with images"
    ):
        runner(obs_normalization=True)
    with pytest.raises(RegistryError, match=r"a vector of .*encoder that keeps maps \(direct\)"):
        runner({"encoder": "population"})


def test_its_cost_is_set_beside_that_of_isaac_labs_cnn():
    run = runner(cnn_cfg=CNN, hidden_dims=[7])
    convolutions = 4 * 2 * 9 * (7 * 8) + 5 * 4 * 9 * (3 * 3)
    assert run.alg.actor.ann_operations == convolutions + 5 * 3 * 3 * 7 + 7 * 2
    obs = run.env.get_observations()
    cnn = CNNModel(obs, GROUPS, "actor", 2, [7], cnn_cfg=CNN)
    assert dense_operations(cnn) == run.alg.actor.ann_operations


def camera_agent(name="lif_conv_ppo", *overrides):
    """An agent on a task whose registered agent is a CNN, as Isaac Lab's camera tasks have it."""
    model = {"class_name": "CNNModel", "cnn_cfg": CNN, "hidden_dims": [8], "activation": "elu"}
    host = {"num_steps_per_env": 8, "actor": model, "critic": {"hidden_dims": [8]}, "algorithm": {}}
    return resolve_agent(name, "Isaac-Cartpole-Camera", host, overrides)


def test_an_agent_takes_the_place_of_the_cnn_and_keeps_the_critic():
    actor = make_runner_cfg(camera_agent())["actor"]
    assert (actor["class_name"], actor["cnn_cfg"]) == ("spiky_rl.learners.rsl_rl:SpikingModel", CNN)
    assert make_runner_cfg(camera_agent("mlp_ppo"))["actor"]["class_name"] == "CNNModel"
    with pytest.raises(SpecError, match="share_cnn_encoders: true needs two CNNs"):
        make_runner_cfg(camera_agent("lif_conv_ppo", "agent.algorithm.share_cnn_encoders=true"))


@pytest.mark.parametrize("rates", [{"critic_learning_rate": 1e-2}, {"std_learning_rate": 1e-4}])
def test_cnns_that_share_encoders_learn_them_at_the_actors_rate(rates):
    settings = config(share_cnn_encoders=True, **rates)
    settings["obs_groups"] = {"actor": ["policy"], "critic": ["policy"]}
    for role in ("actor", "critic"):
        settings[role] |= {"class_name": "CNNModel", "cnn_cfg": CNN}
    run = RslRlRunner(ImageEnv(8), settings)
    shared = set(run.alg.actor.cnns.parameters())
    assert shared == set(run.alg.critic.cnns.parameters())
    groups = [set(group["params"]) & shared for group in run.alg.optimizer.param_groups]
    assert groups[0] == shared and not any(groups[1:])
