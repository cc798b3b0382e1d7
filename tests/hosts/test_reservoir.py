"""Reservoirs in rsl_rl: features computed once in the rollout, kept with it, and trained on as often as PPO likes."""

import pytest
import torch
from rsl_rl.runners import OnPolicyRunner

from spiky_rl.config.options import UserError
from spiky_rl.learners.rsl_rl import SpikingModel
from spiky_rl.learners.rsl_rl.activity import compute_last_activity, draw_raster
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.agents import mark_slow
from tests.hosts.point_env import PointEnv, config
from tests.hosts.test_rsl_rl_model import replayed_difference, rollout

RESERVOIR = {"name": "reservoir", "size": 40, "steps": 4, "seed": 1, "control": "gain"}
PLASTIC = {**RESERVOIR, "plasticity": {"name": "stdp", "rate": 0.05, "intrinsic": 0.01}}
CASES = {
    "actor": (RESERVOIR, None),
    "both": (RESERVOIR, {**RESERVOIR, "seed": 2}),
    "plastic": (PLASTIC, None),
    "hidden readout": ({**RESERVOIR, "hidden": [8], "traces": [20.0, 100.0]}, None),
    "beside a recurrent critic": (RESERVOIR, {"name": "feedforward", "stateful": True, "layers": [8]}),
    "delta encoder": ({**RESERVOIR, "encoder": "delta"}, None),
}


def runner(actor, critic=None, num_envs=8, **kwargs) -> RslRlRunner:
    torch.manual_seed(0)
    return RslRlRunner(PointEnv(num_envs), config(actor, critic=critic, **kwargs))


@pytest.mark.parametrize("case", mark_slow(CASES, ["actor", "plastic", "beside a recurrent critic"]))
def test_cached_features_give_the_stored_log_probabilities(case):
    run = runner(*CASES[case])
    assert not run.alg.actor.is_recurrent
    for _ in range(2):  # the second rollout starts in the middle of episodes
        rollout(run)
        assert run.alg.storage.dones.sum() > 8
        assert replayed_difference(run) < 1e-5
        run.alg.storage.clear()


def test_a_ppo_that_keeps_no_features_is_answered_by_the_one_that_does():
    settings = config(RESERVOIR)
    settings["algorithm"]["class_name"] = "rsl_rl.algorithms:PPO"
    env = PointEnv(8)
    run = OnPolicyRunner(env, settings, None, "cpu")
    with pytest.raises(UserError, match=r"class_name: .*reservoir.* spiky_rl\.learners\.rsl_rl:SpikingPPO"):
        run.learn(1)


@pytest.mark.parametrize("case", mark_slow(["actor", "both", "plastic"], ["actor", "plastic"]))
def test_every_epoch_trains_on_the_features_of_the_rollout(case):
    run = runner(*CASES[case], num_envs=16)
    actor = run.alg.actor
    trained = ("decoder", "distribution", "_extra_state")  # the last counts the updates themselves
    fixed = {k: v.clone() for k, v in actor.state_dict().items() if not any(part in k for part in trained)}
    rollout(run)
    kept = run.alg.storage.observations["actor_features"].clone()
    calls = []
    # would break, were it called
    actor.network.compute_fixed_part = lambda *args, **kwargs: calls.append(args)
    run.alg.update()
    assert calls == []
    assert kept.abs().sum() > 0
    moved = [k for k, v in actor.state_dict().items() if k in fixed and not torch.equal(v, fixed[k])]
    if case != "plastic":
        assert moved == []
    else:
        assert {"network.weight", "network.bias"} <= set(
            moved
        ), "plasticity moves what the optimiser does not"


def test_stored_features_are_those_of_a_pass_over_the_whole_rollout():
    run = runner(RESERVOIR)
    rollout(run)
    storage, network = run.alg.storage, run.alg.actor.network
    x = run.alg.actor.get_latent(storage.observations)
    begins = torch.roll(storage.dones[..., 0], 1, 0).float()
    begins[0] = 0.0
    found, _ = network.compute_fixed_part(x, network.zero_state(x.shape[1], x), 1.0 - begins)
    assert torch.allclose(found, storage.observations["actor_features"], atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [pytest.param(RESERVOIR, id="fixed", marks=pytest.mark.slow), pytest.param(PLASTIC, id="plastic")],
)
def test_the_value_of_the_step_to_come_does_not_advance_the_critic(network):
    run = runner(network, {**network, "seed": 2})
    rollout(run, bootstrap=False)
    before = [m.state for m in (run.alg.actor, run.alg.critic)]
    weight = run.alg.critic.network.weight.clone()
    with torch.inference_mode():
        run.alg.compute_returns(run.env.get_observations())
    after = [m.state for m in (run.alg.actor, run.alg.critic)]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert run.alg.storage.returns.isfinite().all()
    assert torch.equal(run.alg.critic.network.weight, weight)


def test_the_value_at_a_time_limit_leaves_the_critic_where_it_was():
    run = runner(RESERVOIR, {**RESERVOIR, "seed": 2})
    rollout(run)
    run.alg.storage.clear()
    obs, done = run.env.get_observations(), torch.eye(8, dtype=torch.long)[3]
    with torch.inference_mode():
        run.alg.act(obs)
        before = run.alg.critic.state
        extras = {"time_outs": done.bool(), "final_observations": obs.clone()}
        run.alg.process_env_step(obs, torch.zeros(8), done, extras)
    for old, new in zip(before, run.alg.critic.state, strict=True):
        assert torch.equal(new[:, done == 0], old[:, done == 0]) and not new[:, 3].any()


def test_to_look_at_a_plastic_reservoir_does_not_change_it():
    run = runner(PLASTIC)
    rollout(run)
    weight = run.alg.actor.network.weight.clone()
    assert compute_last_activity(run.alg).rate > 0
    draw_raster(run.alg)
    assert torch.equal(run.alg.actor.network.weight, weight)


@pytest.mark.parametrize("case", mark_slow(["actor", "plastic"], ["actor"]))
def test_training_brings_a_reservoir_forward(case):
    run = runner(*CASES[case], num_envs=64, num_learning_epochs=5, num_mini_batches=4, learning_rate=3e-3)
    rewards = []
    for _ in range(15):
        rollout(run)
        rewards.append(run.alg.storage.rewards.mean().item())
        run.alg.update()
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.05


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(RESERVOIR, id="fixed", marks=pytest.mark.slow),
        pytest.param(PLASTIC, id="plastic"),
        pytest.param({**RESERVOIR, "train_input": True}, id="trained"),
    ],
)
def test_playback_carries_the_state_and_exports_equal_it(network):
    run = runner(network)
    rollout(run)
    run.alg.eval_mode()
    policy = run.alg.actor
    assert isinstance(policy, SpikingModel)
    policy.reset()
    scripted = torch.jit.script(policy.as_jit())
    graph = policy.as_onnx(False)
    assert graph.is_recurrent
    scripted.reset()
    weight = policy.network.weight.clone()
    state = torch.zeros(1, sum(policy.network.state_sizes))
    env, actions = PointEnv(1), []
    with torch.inference_mode():
        for _ in range(10):
            obs = env.get_observations()
            action = policy(obs)
            other, state = graph(obs["policy"], state)
            assert torch.allclose(scripted(obs["policy"]), action, atol=1e-5)
            assert torch.allclose(other, action, atol=1e-5)
            env.step(action)
            actions.append(action)
        again = runner(network).alg.actor
        again.load_state_dict(policy.state_dict())
        fresh = again(obs)
    assert torch.equal(policy.network.weight, weight), "plasticity rests in playback"
    assert not torch.allclose(fresh, actions[-1]), "the state must matter"


def test_a_resumed_run_goes_on_from_the_same_reservoir(tmp_path):
    unseeded = {**PLASTIC, "seed": None}  # drawn from the run's own seed, which a resumed run need not have
    run = runner(unseeded)
    rollout(run)
    run.alg.update()
    path = str(tmp_path / "model_0.pt")
    run.logger.init_logging_writer()
    run.save(path)
    torch.manual_seed(9)
    other = RslRlRunner(PointEnv(8), config(unseeded))
    assert not torch.equal(other.alg.actor.network.weight, run.alg.actor.network.weight)
    other.load(path)
    for (name, a), b in zip(
        run.alg.actor.state_dict().items(), other.alg.actor.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    there = other.alg.actor.network.weight != 0
    rollout(other)
    assert torch.equal(other.alg.actor.network.weight != 0, there), "plasticity knows where the synapses are"


def test_burn_in_is_refused_where_nothing_is_replayed():
    settings = config(RESERVOIR)
    settings["actor"]["burn_in"] = 4
    with pytest.raises(ValueError, match="burn-in need"):
        RslRlRunner(PointEnv(8), settings)
