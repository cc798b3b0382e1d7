"""Learning from mirrored samples, as examples/symmetric_ppo.yaml does it."""

import json
from pathlib import Path

import pytest
import torch

from spiky_rl.config.spec import SpecError
from spiky_rl.run.simulate import open_env
from tests.hosts.gymnasium.planned import make_runner, plan_of

pytest.importorskip("mujoco", reason="the gymnasium extra is not installed")

AGENT = Path(__file__).parents[3] / "examples" / "symmetric_ppo.yaml"
TASK, ENVS, STEPS, EPOCHS, BATCHES = "InvertedPendulum-v5", 32, 16, 4, 4
SMALL = [f"agent.num_steps_per_env={STEPS}", f"agent.algorithm.num_learning_epochs={EPOCHS}"]
SMALL += [f"agent.algorithm.num_mini_batches={BATCHES}", "agent.algorithm.learning_rate=1e-3"]
SYMMETRY = "agent.algorithm.symmetry_cfg"
UNUSED = [f"{SYMMETRY}.use_data_augmentation=false", f"{SYMMETRY}.use_mirror_loss=false"]


def train(iterations, overrides=(), watch=lambda alg: None):
    """Return the losses on symmetry of every iteration; ``watch`` gets the algorithm before the training."""
    plan, losses = plan_of(TASK, str(AGENT), *SMALL, *overrides), []
    with open_env(plan) as env:
        runner = make_runner(plan, env)
        watch(runner.alg)
        runner.on_iteration = lambda iteration: losses.append(iteration.losses["symmetry"])
        runner.learn(iterations)
    return losses


@pytest.mark.parametrize("overrides", [(), UNUSED], ids=["used", "unused"])
def test_minibatches_have_the_mirrored_samples(overrides):
    observed, acted = [], []

    def watch(alg):
        log_prob = alg.actor.get_output_log_prob
        alg.critic.register_forward_pre_hook(lambda _, given: observed.append(given[0]["policy"].clone()))
        alg.actor.get_output_log_prob = lambda actions: (acted.append(actions.clone()), log_prob(actions))[1]

    train(1, overrides, watch)
    acted, observed = acted[STEPS:], [obs for obs in observed if len(obs) > ENVS]
    size = ENVS * STEPS // BATCHES
    assert len(acted) == len(observed) == EPOCHS * BATCHES
    for samples in (*acted, *observed):
        assert len(samples) == (size if overrides else 2 * size) and samples.abs().max() > 0
        assert torch.equal(samples[size:], -samples[: len(samples) - size])


@pytest.mark.slow
def test_the_policy_becomes_symmetric():
    used, unused = train(6), train(6, UNUSED)
    assert used[0] > 0 and used[-1] < 0.5 * unused[-1], (used, unused)


def test_the_penalty_counts_once_beside_a_loss_on_symmetry():
    """With the factor 0 the loss changes nothing, although the actor runs twice per minibatch."""
    penalty = "agent.network.sparsity={name: rate, weight: 1.0, upper: 0.0}"
    weights = []
    for is_used in ("true", "false"):
        overrides = (penalty, f"{SYMMETRY}.mirror_loss_coeff=0", f"{SYMMETRY}.use_mirror_loss={is_used}")
        algorithms = []
        train(1, overrides, algorithms.append)
        weights.append([weight.detach().clone() for weight in algorithms[0].actor.parameters()])
    for used, unused in zip(*weights, strict=True):
        assert torch.equal(used, unused)


@pytest.mark.slow
def test_the_example_is_trained_and_resumed_by_commands(command, tmp_path):
    run = ["--task", TASK, "--agent", AGENT, "--device", "cpu", "--num_envs", ENVS, "--log_root", tmp_path]
    code, _, stderr = command("train", *run, *SMALL, "--max_iterations", 1)
    assert code == 0, stderr
    (result,) = tmp_path.glob("rsl_rl/*/*/result.json")
    assert json.loads(result.read_text())["outcome"] == "finished"
    code, _, stderr = command("train", *run, *SMALL, "--max_iterations", 1, "--checkpoint", result.parent)
    assert code == 0, stderr


def test_a_recurrent_actor_is_refused():
    with pytest.raises(SpecError, match="symmetry_cfg: not available with a recurrent actor"):
        train(1, ["agent.network.stateful=true"])


@pytest.mark.parametrize(
    "name, words",
    [("symetry.py:mirror_signs", "there is no file"), (f"{AGENT.with_name('symmetry.py')}:mirror", "mirror")],
)
def test_a_function_that_is_not_there_is_named(name, words):
    with pytest.raises(SpecError, match=f"data_augmentation_func: .*{words}"):
        train(1, [f"{SYMMETRY}.data_augmentation_func={name}"])
