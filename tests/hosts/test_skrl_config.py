"""Isaac Lab's skrl configuration as an agent's tree and back, and what skrl cannot do."""

import copy
import math

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")

from spiky_rl.config.registry import UserError
from spiky_rl.learners.rsl_rl.config import make_runner_cfg as rsl_rl_config
from spiky_rl.learners.skrl.config import make_runner_cfg, to_agent_layout
from tests.hosts.skrl_case import NETWORK, RAW, SPIKING, specification


def test_isaac_labs_values_arrive_in_the_tree():
    tree = to_agent_layout(RAW, "Isaac-Point")
    algorithm = tree["algorithm"]
    assert (tree["num_steps_per_env"], tree["max_iterations"]) == (16, 10)
    assert (tree["experiment_name"], tree["seed"]) == ("point", 42)
    assert tree["actor"]["hidden_dims"] == tree["critic"]["hidden_dims"] == [16]
    assert tree["actor"]["obs_normalization"] and tree["critic"]["obs_normalization"]
    assert tree["actor"]["distribution_cfg"]["init_std"] == 1.0
    expected = {
        "num_learning_epochs": 2, "num_mini_batches": 2, "gamma": 0.98, "lam": 0.9, "learning_rate": 5e-4,
        "schedule": "adaptive", "desired_kl": 0.016, "max_grad_norm": 0.7, "clip_param": 0.25, "value_clip": 0.2,
        "use_clipped_value_loss": True, "entropy_coef": 0.01, "value_loss_coef": 2.0, "rewards_shaper_scale": 0.6,
        "value_normalization": True, "time_limit_bootstrap": False, "kl_threshold": 0.0,
    }  # fmt: skip
    assert {key: algorithm[key] for key in expected} == expected


def test_unchanged_the_tree_gives_skrl_what_isaac_lab_said():
    agent, said = make_runner_cfg(specification())["agent"], RAW["agent"]
    same = "class rollouts learning_epochs mini_batches discount_factor learning_rate_scheduler kl_threshold"
    same += " learning_rate_scheduler_kwargs value_preprocessor grad_norm_clip ratio_clip value_clip"
    same += " entropy_loss_scale value_loss_scale rewards_shaper_scale time_limit_bootstrap"
    assert {key: agent[key] for key in same.split()} == {key: said[key] for key in same.split()}
    assert agent["gae_lambda"] == said["lambda"]
    assert agent["observation_preprocessor"] == said["state_preprocessor"]
    assert agent["learning_rate"] == [said["learning_rate"]] * 2


def test_agents_and_the_command_line_change_it_as_they_change_rsl_rls():
    spec = specification(
        "agent.algorithm.gamma=0.5", "agent.algorithm.value_normalization=false", "agent.num_steps_per_env=4",
        "agent.actor.distribution_cfg.init_std=0.5", agent="lif_ppo",
    )  # fmt: skip
    config = make_runner_cfg(spec)
    assert config["agent"]["discount_factor"] == 0.5
    assert config["agent"]["value_preprocessor"] is None
    assert config["agent"]["learning_rate"] == [1e-3, 1e-2], "lif_ppo's two rates"
    assert config["agent"]["learning_rate_scheduler"] is None
    assert config["agent"]["rollouts"] == config["models"]["policy"]["sequence_length"] == 4
    assert config["models"]["policy"]["init_std"] == 0.5
    assert config["models"]["policy"]["network"]["layers"] == [16], "Isaac Lab's hidden layers"
    assert spec.origins["algorithm.gamma"] == "command line"
    assert spec.origins["algorithm.lam"] == "host"


def test_a_floor_is_the_schedules_least_rate():
    agent = make_runner_cfg(specification("agent.algorithm.learning_rate_floor=1.0e-4"))["agent"]
    assert agent["learning_rate_scheduler_kwargs"] == {"kl_threshold": 0.016, "min_lr": 1e-4}


def test_value_clipping_is_the_policys_range_unless_said_otherwise():
    def clip(*overrides, **changes):
        return make_runner_cfg(specification(*overrides, **changes))["agent"]["value_clip"]

    assert clip(value_clip=0.25) == clip("agent.algorithm.value_clip=null") == 0.25
    assert clip("agent.algorithm.use_clipped_value_loss=false") == clip(clip_predicted_values=False) == 0.0


REFUSED = {
    "agent.burn_in=4": ("command line: agent.burn_in: 4", "allowed: 0"),
    "agent.torch_compile_mode=default": ("agent.torch_compile_mode: 'default'", "allowed: null"),
    "agent.algorithm.optimizer=sgd": ("agent.algorithm.optimizer: 'sgd'", "allowed: adam"),
    "agent.algorithm.class_name=module:Class": ("agent.algorithm.class_name", "allowed: PPO"),
    "agent.algorithm.use_mixed_precision=true": (
        "agent.algorithm.use_mixed_precision: True",
        "allowed: false",
    ),
    "agent.algorithm.symmetry_cfg={data_augmentation_func: a:b}": (
        "agent.algorithm.symmetry_cfg",
        "allowed: null",
    ),
    "agent.algorithm.rnd_cfg={num_outputs: 1, predictor_hidden_dims: [4], target_hidden_dims: [4], weight: 1.0}": (
        "command line: agent.algorithm.rnd_cfg",
        "allowed: null",
    ),
    "agent.actor.class_name=CNNModel": ("agent.actor.class_name: 'CNNModel'", "MLPModel, RNNModel"),
    "agent.actor.distribution_cfg.std_type=scalar": ("std_type: 'scalar'", "allowed: log"),
    "agent.algorithm.critic_learning_rate=0.1": ("critic_learning_rate", "schedule=fixed, not adaptive"),
    "agent.algorithm.std_learning_rate=0.1": ("std_learning_rate", "schedule=fixed, not adaptive"),
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_skrl_cannot_do_is_refused_by_key_value_and_what_is_allowed(override):
    with pytest.raises(UserError) as caught:
        # a class beside a network is refused before skrl is asked
        network = {} if "actor.class_name" in override else {"network": SPIKING}
        make_runner_cfg(specification(override, **network))
    assert all(word in str(caught.value) for word in REFUSED[override]), str(caught.value)


def test_options_of_skrls_are_refused_by_the_other_host():
    with pytest.raises(
        UserError, match="agent.algorithm.rewards_shaper_scale: not available with --rl_library rsl_rl"
    ):
        rsl_rl_config(specification())


FOREIGN = {
    "agent": ({"agent": {**RAW["agent"], "class": "AMP"}}, "is 'AMP'; allowed: PPO"),
    "images": (
        {"models": {**RAW["models"], "policy": {"class": "GaussianMixin", "network": NETWORK * 2}}},
        "models.policy: Isaac Lab's network is not an MLP",
    ),
    "choices": (
        {"models": {**RAW["models"], "policy": {"class": "CategoricalMixin", "network": NETWORK}}},
        "models.policy: Isaac Lab's network is not an MLP",
    ),
    "schedule": (
        {"agent": {**RAW["agent"], "learning_rate_scheduler": "StepLR"}},
        "is 'StepLR'; allowed: KLAdaptiveLR",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_task_whose_agent_is_no_ppo_on_vectors_is_refused(case):
    change, words = FOREIGN[case]
    with pytest.raises(UserError, match=words):
        to_agent_layout({**RAW, **change}, "Isaac-Point")


def test_a_critic_of_its_own_observations_reads_skrls_states():
    states = {"class": "DeterministicMixin", "network": [{**NETWORK[0], "input": "STATES"}]}
    tree = to_agent_layout({**RAW, "models": {**RAW["models"], "value": states}}, "Isaac-Point")
    assert tree["obs_groups"] == {"actor": ["policy"], "critic": ["critic"]}
    assert tree["actor"]["obs_normalization"] and not tree["critic"]["obs_normalization"]


def test_a_critic_of_its_own_normalisation_reads_skrls_states_too():
    for normalised in (True, False):
        config = make_runner_cfg(
            specification(
                f"agent.actor.obs_normalization={normalised}",
                f"agent.critic.obs_normalization={not normalised}",
            )
        )
        assert config["states"] and config["models"]["value"]["source"] == "states"
        scalers = [config["agent"][f"{name}_preprocessor"] is not None for name in ("observation", "state")]
        assert scalers == [normalised, not normalised]
    both = make_runner_cfg(specification())
    assert not both["states"] and both["agent"]["state_preprocessor"] is None


def test_deviations_without_limits_have_none():
    policy = {
        **RAW["models"]["policy"],
        "clip_log_std": False,
        "initial_log_std": -1.0,
        "fixed_log_std": True,
    }
    actor = to_agent_layout({**RAW, "models": {**RAW["models"], "policy": policy}}, "Isaac-Point")["actor"]
    assert actor["distribution_cfg"]["std_range"] == []
    assert actor["distribution_cfg"]["init_std"] == math.exp(-1.0)
    assert not actor["distribution_cfg"]["learn_std"]


@pytest.mark.parametrize(
    ("agent", "overrides", "message"),
    [
        ("lif_plastic_reservoir_ppo", [], r"agent\.network\.plasticity: stdp: not available with --rl_library skrl"),
        ("lif_stateful_ppo", ["agent.algorithm.time_limit_bootstrap=true"], r"agent\.algorithm\.time_limit_bootstrap: true"),
        ("lif_ppo", ["agent.actor.distribution_cfg.init_std=0.0"], r"init_std: 0\.0 .* it must be above 0"),
        ("lif_ppo", ["agent.actor.distribution_cfg.std_range=[2.0,1.0]"], r"std_range: \[2\.0, 1\.0\] is not a range"),
        ("lif_ppo", ["agent.actor.distribution_cfg.std_range=[0.0,1.0]"], r"std_range: \[0\.0, 1\.0\] given"),
        ("lif_ppo", ["agent.check_for_nan=false"], r"agent\.check_for_nan: False: not available .* allowed: true"),
    ],
)  # fmt: skip
def test_what_skrl_cannot_do_right_is_refused(agent, overrides, message):
    with pytest.raises(UserError, match=message):
        make_runner_cfg(specification(*overrides, agent=agent))


def test_an_encoding_of_the_observations_is_no_network_that_ours_stand_in_for():
    raw = copy.deepcopy(RAW)
    raw["models"]["policy"]["network"][0]["input"] = "one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)"
    with pytest.raises(UserError, match="not an MLP on vectors"):
        to_agent_layout(raw, "Isaac-Point")


def test_states_are_what_everybody_observes_where_the_policy_reads_them_too():
    raw = copy.deepcopy(RAW)
    for model in ("policy", "value"):
        raw["models"][model]["network"][0]["input"] = "STATES"
    assert to_agent_layout(raw, "Isaac-Point")["obs_groups"] == {"actor": ["policy"], "critic": ["policy"]}
