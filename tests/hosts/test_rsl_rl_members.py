"""What rsl_rl promises of every model, held by ours: members, hidden states, normalisation, distributions, exports, storage."""

import copy
import inspect

import pytest
import torch
from rsl_rl.models import MLPModel, RNNModel
from rsl_rl.modules import EmpiricalNormalization
from tensordict import TensorDict

from spiky_rl.learners.rsl_rl import SpikingModel
from tests.hosts.point_env import LIF
from tests.hosts.test_reservoir import RESERVOIR

BATCH, ACTIONS, TIME = 6, 3, 5
WIDTHS = {"joints": 4, "base": 3}
FEEDFORWARD = {"name": "feedforward", "layers": [16, 12], **LIF}
NETWORKS = {
    "stateless": FEEDFORWARD,
    "stateful": {**FEEDFORWARD, "stateful": True},
    "one state": {**FEEDFORWARD, "layers": [16], "stateful": True, "decoder": "rate"},
    "reservoir": RESERVOIR,
}
STATEFUL = [name for name in NETWORKS if name not in ("stateless", "reservoir")]
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}


def observations(*batch: int, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    groups = {name: torch.randn(*batch, width, generator=generator) for name, width in WIDTHS.items()}
    return TensorDict(groups, batch_size=list(batch))


def model(name: str = "stateless", distribution=GAUSSIAN, **options) -> SpikingModel:
    torch.manual_seed(0)
    groups = {"actor": list(WIDTHS), "critic": ["joints"]}
    distribution = copy.deepcopy(distribution)
    return SpikingModel(
        observations(BATCH),
        groups,
        "actor",
        ACTIONS,
        distribution_cfg=distribution,
        network=NETWORKS[name],
        **options,
    )


@pytest.mark.parametrize("theirs", [MLPModel, RNNModel])
def test_every_public_member_of_rsl_rls_models_can_be_called_as_theirs(theirs):
    members = [name for name, _ in inspect.getmembers(MLPModel) if not name.startswith("_")]
    assert {"get_latent", "get_output_log_prob", "output_std", "state_dict"} <= set(members)
    for name in members:
        their, our = getattr(theirs, name), getattr(SpikingModel, name)
        assert callable(their) == callable(our) and isinstance(their, property) == isinstance(our, property)
        if inspect.isfunction(their):
            expected, found = inspect.signature(their).parameters, inspect.signature(our).parameters
            assert list(found)[: len(expected)] == list(expected), name
            for parameter, value in expected.items():
                if value.default is not inspect.Parameter.empty:
                    assert found[parameter].default == value.default, f"{name}({parameter})"


@pytest.mark.parametrize("name", NETWORKS)
def test_output_members_are_those_of_the_distribution(name):
    actor, obs = model(name), observations(BATCH)
    torch.manual_seed(1)
    sample = actor(obs, stochastic_output=True)
    assert sample.shape == (BATCH, ACTIONS)
    actor.reset()
    assert torch.equal(actor(obs), actor.output_mean), "without noise it is the mean"
    normal = torch.distributions.Normal(actor.output_mean, actor.output_std)
    assert torch.allclose(actor.output_std, torch.full((BATCH, ACTIONS), 0.5))
    assert torch.allclose(actor.output_entropy, normal.entropy().sum(-1))
    assert torch.allclose(actor.get_output_log_prob(sample), normal.log_prob(sample).sum(-1))
    parameters = actor.output_distribution_params
    wider = tuple(p.detach() + (0.25 if p is parameters[1] else 0.0) for p in parameters)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(*wider), normal).sum(-1)
    assert torch.allclose(actor.get_kl_divergence(wider, parameters), expected, atol=1e-6)


def test_a_critic_has_no_distribution_and_gives_a_value_per_environment():
    critic = model(distribution=None)
    assert critic.distribution is None
    obs = observations(BATCH)
    assert torch.equal(critic(obs), critic(obs, stochastic_output=True))


@pytest.mark.parametrize("name", STATEFUL)
def test_a_hidden_state_is_a_tuple_of_one_layer_per_environment_that_can_be_put_back(name):
    actor, obs = model(name), observations(BATCH)
    assert actor.is_recurrent and actor.get_hidden_state() is None
    first = actor(obs)
    state = actor.get_hidden_state()
    assert [tuple(s.shape) for s in state] == [(1, BATCH, size) for size in actor.network.state_sizes]
    second = actor(obs)
    assert not torch.equal(first, second)
    actor.reset(hidden_state=state)
    assert torch.equal(actor(obs), second)
    alone = state[0] if len(state) == 1 else state  # rsl_rl hands a tuple of one over without the tuple
    actor.reset(hidden_state=alone)
    assert torch.equal(actor(obs), second)
    actor.reset()
    assert actor.get_hidden_state() is None and torch.equal(actor(obs), first)


@pytest.mark.parametrize("name", [*STATEFUL, "reservoir"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_dones_put_their_environments_at_rest_and_no_other(name, dtype):
    actor, obs = model(name).eval(), observations(BATCH)

    def act():
        with torch.no_grad():
            return actor(actor.add_features(obs))

    fresh = act()
    for _ in range(3):
        carried = act()
    done = torch.tensor([0, 2, 5])
    before = actor.state
    dones = torch.zeros(BATCH, dtype=dtype)
    dones[done] = 1
    actor.reset(dones)
    assert all(torch.equal(s[:, done], torch.zeros_like(s[:, done])) for s in actor.state)
    going = torch.tensor([1, 3, 4])
    assert all(torch.equal(a[:, going], b[:, going]) for a, b in zip(actor.state, before, strict=True))
    after = act()
    assert torch.equal(after[done], fresh[done]) and not torch.equal(fresh, carried)
    actor.reset(torch.ones(BATCH, 1))  # a column, as some of rsl_rl's callers have it
    assert torch.equal(act(), fresh)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_detached_state_keeps_its_values_and_loses_its_gradient(name):
    actor, obs = model(name), observations(BATCH)
    actor.detach_hidden_state()
    assert actor.get_hidden_state() is None
    actor(obs)
    before = actor.get_hidden_state()
    assert any(s.requires_grad for s in before)
    actor.detach_hidden_state()
    after = actor.get_hidden_state()
    assert not any(s.requires_grad for s in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_normalisation_follows_what_it_is_shown_and_rests_in_evaluation(name):
    actor, plain = model(name, obs_normalization=True), model(name)
    expected, seen = EmpiricalNormalization(sum(WIDTHS.values())), []
    for seed in range(3):
        obs = observations(40, seed=seed)
        joined = torch.cat([obs[group] for group in WIDTHS], dim=-1)
        expected.update(3.0 * joined + 1.0)
        obs.update({group: 3.0 * obs[group] + 1.0 for group in WIDTHS})
        actor.update_normalization(obs)
        plain.update_normalization(obs)
        seen.append(obs)
    assert torch.allclose(
        actor.get_latent(seen[0]), expected(torch.cat([seen[0][g] for g in WIDTHS], dim=-1))
    )
    assert torch.equal(plain.get_latent(seen[0]), torch.cat([seen[0][g] for g in WIDTHS], dim=-1))
    before = copy.deepcopy(actor.state_dict())
    actor.eval()
    actor.update_normalization(seen[1])
    assert all(torch.equal(value, before[key]) for key, value in actor.state_dict().items())


@pytest.mark.parametrize("name", ["stateless", "reservoir"])
def test_a_model_that_is_not_replayed_unpads_trajectories_itself(name):
    actor = model(name)
    padded = observations(TIME, BATCH)
    masks = torch.ones(TIME, BATCH, dtype=torch.bool)
    masks[3:, 1] = False
    if name == "reservoir":
        padded[actor.features_key] = torch.randn(TIME, BATCH, actor.network.fixed_size)
    whole = masks.clone().fill_(True)
    flat = actor(padded.flatten(0, 1)).view(TIME, BATCH, ACTIONS)
    assert torch.equal(actor(padded, masks=whole).reshape(TIME, BATCH, ACTIONS), flat)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "distribution", [GAUSSIAN, {"class_name": "HeteroscedasticGaussianDistribution"}, None]
)
def test_exports_give_the_deterministic_action_and_leave_the_model_alone(name, distribution):
    actor = model(name, distribution, obs_normalization=True).eval()
    actor.network.set_backend("torch")
    obs = observations(1)
    x = torch.cat([obs[group] for group in WIDTHS], dim=-1)
    with torch.no_grad():
        expected = [actor(actor.add_features(obs)) for _ in range(2)]
        before = actor.state
        scripted = torch.jit.script(actor.as_jit())
        assert [torch.equal(scripted(x), action) for action in expected] == [True, True]
        scripted.reset()
        assert torch.equal(scripted(x), expected[0])
        graph = actor.as_onnx(verbose=False)
        inputs = graph.get_dummy_inputs()
        assert len(inputs) == len(graph.input_names) and graph.is_recurrent == actor.network.stateful
        outputs = graph(x, *inputs[1:])
        assert torch.equal(outputs[0] if graph.is_recurrent else outputs, expected[0])
        assert len(graph.output_names) == (2 if graph.is_recurrent else 1)
    assert before is actor.state and actor.network.updates == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_can_be_copied_moved_and_loaded_as_any_module(name):
    actor, obs = model(name).eval(), observations(BATCH)
    with torch.no_grad():
        first = actor(actor.add_features(obs))
        actor.reset()
        twin = copy.deepcopy(actor).to("cpu")
        assert torch.equal(twin(twin.add_features(obs)), first)
        other = model(name).eval()
        for parameter in other.parameters():
            parameter.add_(0.5)
        assert not torch.equal(other(other.add_features(obs)), first)
        other.reset()
        other.load_state_dict(actor.state_dict())
        assert torch.equal(other(other.add_features(obs)), first)
