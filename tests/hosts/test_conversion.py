"""An ANN's actor becomes a sigma-delta network: its weights, thresholds from its activations, and then it trains on."""

from functools import cache

import pytest
import torch
from tensordict import TensorDict

from spiky_rl.config.registry import RegistryError
from spiky_rl.learners.common.teacher import Teacher
from spiky_rl.learners.rsl_rl.actor import build_actor
from spiky_rl.learners.rsl_rl.conversion import Converter
from spiky_rl.learners.rsl_rl.actor import build_teacher
from spiky_rl.networks.base import ForwardRecord
from tests.deploy.perturbed import perturb_learned_values
from tests.hosts.test_distillation import changed, load, losses_of, merged, phases_of, runner_of, weights_of

STUDENT = "sigma_delta_converted"
SIZES = "agent.actor.hidden_dims=[24,16]"
SHORT = (
    "agent.algorithm.distillation_cfg.iterations=3",
    "agent.algorithm.distillation_cfg.value_iterations=1",
)
EXACT = ("agent.network.encoder.threshold=0.0", "agent.algorithm.distillation_cfg.threshold_share=1.0e-6")
"""With the lowest thresholds, 0.001."""


@cache
def a_teacher(*overrides, agent="mlp_ppo", train=2):
    """Trained for a few iterations, then perturbed, with statistics of its observations; one for all tests."""
    overrides = (SIZES, *overrides) if agent == "mlp_ppo" else overrides
    run = runner_of(agent, *overrides, seed=5)
    run.learn(train)
    actor = perturb_learned_values(run.alg.actor)
    return Teacher("teacher.pt", agent, merged(agent, *overrides).to_dict(), actor.state_dict())


def student_of(teacher, *overrides, folder=None):
    run = runner_of(STUDENT, *SHORT, SIZES, *overrides, folder=folder)
    run.set_teacher(teacher)
    return run


def drive(model, seen):
    """Mean actions over an episode, [T, B, A]."""
    model.eval()
    model.reset()
    with torch.inference_mode():
        return torch.stack([model(x) for x in seen])


def episode(run):
    """Observations in which few values change from one step to the next."""
    obs = run.env.get_observations()
    generator, seen = torch.Generator().manual_seed(1), []
    for _ in range(30):
        obs = obs.clone()
        obs["policy"] = obs["policy"] + 0.1 * torch.randn(obs["policy"].shape, generator=generator)
        seen.append(obs)
    return seen


@pytest.mark.parametrize(
    ("normalised", "activation"),
    [
        ("true", "elu"),
        ("false", "relu"),
        ("true", "tanh"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("false", "elu"), ("true", "relu"), ("false", "tanh"))
        ),
    ],
)
def test_without_thresholds_it_is_the_ann(activation, normalised):
    ours = (f"agent.actor.activation={activation}", f"agent.actor.obs_normalization={normalised}")
    run = student_of(a_teacher(*ours), *EXACT, *ours[1:], f"agent.network.neuron.activation={activation}")
    losses = losses_of(run, 3)
    teacher, seen = run.alg.distillation.teacher, episode(run)
    expected = drive(teacher, seen)
    assert expected.std() > 0.05
    assert (drive(run.alg.actor, seen) - expected).abs().max() < 0.02 * expected.abs().max()
    assert losses[-1]["behavior"] < 1e-4 * float(expected.square().mean())


def test_thresholds_are_shares_of_the_deviations_of_activations_on_what_the_teacher_visits():
    run, kept = student_of(a_teacher()), []
    storage = run.alg.distillation.storage
    clear = storage.clear

    def keep():
        kept.append((storage.observations.flatten(0, 1).clone(), storage.actions.clone()))
        clear()

    storage.clear = keep
    run.learn(3)
    teacher = run.alg.distillation.teacher
    with torch.no_grad():
        x = torch.cat([teacher.get_latent(seen) for seen, _ in kept])
        for i, layer in enumerate(run.alg.actor.network.layers):
            x = teacher.mlp[2 * i + 1](teacher.mlp[2 * i](x))
            threshold, bias, *_ = layer.parameters_of_neuron()
            torch.testing.assert_close(
                threshold, (0.1 * x.std(0, correction=0)).clamp(min=1e-3), rtol=1e-3, atol=1e-6
            )
            assert torch.equal(bias, teacher.mlp[2 * i].bias)


def test_higher_thresholds_send_fewer_events_and_err_more():
    teacher, events, errors = a_teacher(), [], []
    for share in (0.01, 0.3, 1.0):
        run = student_of(
            teacher,
            "agent.network.encoder.threshold=0.0",
            f"agent.algorithm.distillation_cfg.threshold_share={share}",
        )
        run.learn(3)
        seen = episode(run)
        found = drive(run.alg.actor, seen)
        errors.append(float((found - drive(run.alg.distillation.teacher, seen)).square().mean()))
        events.append(count_events(run.alg.actor, seen))
    assert events[0] > 1.3 * events[1] > 1.3 * events[2] > 0.0
    assert errors[0] < errors[1] < errors[2]


def count_events(model, seen):
    """Events of all layers after the first step of an episode."""
    network, record = model.network, ForwardRecord(only_signals=True)
    with torch.inference_mode():
        x = torch.stack([model.get_latent(obs) for obs in seen])
        network(x, network.zero_state(x.shape[1], x), record=record)
    return sum(float((signal[1:] != 0).sum()) for signal in record.layer_spikes)


def test_first_the_conversion_then_the_critic_then_both():
    phases = phases_of(student_of(a_teacher()), 3, 1, 1)
    assert list(phases) == [(True, False), (False, True), (True, True)]


def test_a_run_goes_on_with_what_was_converted(tmp_path):
    run = student_of(a_teacher(), folder=tmp_path)
    run.learn(4)
    again = load(runner_of(STUDENT, *SHORT, SIZES, seed=3), tmp_path / "model_3.pt")
    assert not changed(weights_of(run.alg.actor), again.alg.actor)
    (losses,) = losses_of(again, 1)
    assert "behavior" not in losses


def test_a_conversion_goes_on_with_all_that_was_recorded(tmp_path):
    run = student_of(a_teacher(), folder=tmp_path)
    run.learn(2)
    again = load(runner_of(STUDENT, *SHORT, SIZES, seed=3), tmp_path / "model_1.pt")
    before, after = run.alg.converter, again.alg.converter
    assert after.count == before.count > 0
    assert all(torch.equal(a, b) for a, b in zip(before.sums, after.sums, strict=True))


def test_the_teacher_acts_while_it_is_recorded():
    run = student_of(a_teacher())
    obs = run.env.get_observations()
    teacher = build_teacher(run.alg.teacher, obs, 2, "cpu")
    run.alg.train_mode()
    with torch.no_grad():
        assert torch.equal(run.alg.act(obs), teacher(obs))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("agent.actor.hidden_dims=[24]",), r"agent.network.layers: \[24\] given; allowed .*\[24, 16\]"),
        (("agent.network.neuron.activation=relu",), "agent.network.neuron.activation: relu given; .*: elu"),
        (("agent.network.neuron.learn=[bias]",), "agent.network.neuron.learn: "),
        (("agent.network.encoder=direct",), "agent.network.encoder: direct given; .*: sigma_delta"),
        (("agent.network.decoder=rate",), "agent.network.decoder: rate given; .*: sigma_delta"),
        (("agent.network.steps=2",), "agent.network.steps: 2"),
        (("agent.network.connection.bias=true",), "agent.network.connection.bias: true given; .*: false"),
        (("agent.network.connection.density=0.5",), "agent.network.connection.density: 0.5 given; .*: 1.0"),
        (("agent.network.connection.dale=true",), "agent.network.connection.dale: true given; .*: false"),
        (("agent.network.recurrent=recurrent",), "agent.network.recurrent: recurrent given; .*: null"),
        (("agent.actor.obs_normalization=true",), "agent.actor.obs_normalization: true given; .*: false"),
    ],
)
def test_a_student_that_cannot_hold_its_teacher_is_refused_by_key(overrides, said):
    with pytest.raises(RegistryError, match=f"^{said}"):
        student_of(a_teacher(train=1), *overrides)


@pytest.mark.parametrize(
    ("groups", "overrides", "said"),
    [
        (
            ["b", "a"],
            (),
            r"agent.obs_groups.actor: \['a', 'b'\] given; allowed .*: \['b', 'a'\], as the teacher",
        ),
        (
            ["a", "b"],
            ("agent.actor.distribution_cfg.class_name=HeteroscedasticGaussianDistribution",),
            "agent.actor.distribution_cfg.class_name: GaussianDistribution given; allowed .*: one with 4 features",
        ),
    ],
)
def test_a_teacher_with_other_inputs_or_outputs_is_refused_by_key(groups, overrides, said):
    obs = TensorDict({"a": torch.zeros(1, 3), "b": torch.zeros(1, 3)}, batch_size=[1])
    student = build_actor(merged(STUDENT, SIZES), obs, 2, ["a", "b"])
    teacher = build_actor(merged("mlp_ppo", SIZES, *overrides), obs, 2, groups)
    with pytest.raises(RegistryError, match=f"^{said}"):
        Converter(student, teacher, 0.1)


@pytest.mark.parametrize("agent", ["lif_ppo", "gru_ppo"])
def test_only_an_mlp_is_converted(agent):
    with pytest.raises(RegistryError, match="conversion of .* given; allowed for a conversion: an MLP"):
        student_of(a_teacher(agent=agent, train=1))


def test_an_activation_without_a_unit_is_refused():
    with pytest.raises(RegistryError, match="conversion of Mish given; allowed .*elu, relu, tanh, identity"):
        student_of(a_teacher("agent.actor.activation=mish", train=1))
