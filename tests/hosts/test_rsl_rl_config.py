"""Which algorithm and models an agent gets under rsl_rl, and which are refused by name before anything is simulated."""

import pytest
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.utils import resolve_callable

from spiky_rl.config.spec import SpecError, resolve_agent
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO
from tests.hosts.point_env import config

OURS = "spiky_rl.learners.rsl_rl:SpikingPPO"
CLASS = "agent.algorithm.class_name"


class Plain(PPO):
    """A PPO of a user's own that knows nothing of ours."""


class Derived(RslRlSpikingPPO):
    """One that does."""


def algorithm(agent: str, *overrides: str) -> dict:
    host = config() | {"algorithm": {"class_name": "PPO", "schedule": "fixed"}}
    host["algorithm"] |= {"learning_rate": 1e-3}
    layers = [] if agent == "mlp_ppo" or "reservoir" in agent else ["agent.network.layers=[8,8]"]
    return make_runner_cfg(resolve_agent(agent, "Isaac-Point", host, [*layers, *overrides]))["algorithm"]


@pytest.mark.parametrize(
    "name", ["Distillation", "rsl_rl.algorithms:Distillation", "os:system", "RolloutStorage"]
)
@pytest.mark.parametrize("agent", ["mlp_ppo", "lif_ppo"])
def test_an_algorithm_that_is_no_ppo_is_refused_by_name(name, agent):
    with pytest.raises(SpecError, match=rf"agent\.algorithm\.class_name: .*'?{name}'?.*") as caught:
        algorithm(agent, f"{CLASS}={name}")
    assert "\n" not in str(caught.value)


PLAIN = ("rsl_rl.algorithms:PPO", f"{__name__}:Plain")
NEEDS = {
    ("lif_reservoir_ppo",): r"agent\.network: reservoir",
    ("lif_rstdp",): r"agent\.network\.learning: rstdp",
    ("lif_stateful_ppo", "agent.burn_in=4"): r"agent\.burn_in: 4",
    (
        "mlp_ppo",
        "agent.algorithm.learning_rate_floor=1e-4",
    ): r"agent\.algorithm\.learning_rate_floor: 0\.0001",
    (
        "mlp_ppo",
        "agent.algorithm.critic_learning_rate=0.01",
    ): r"agent\.algorithm\.critic_learning_rate: 0\.01",
    ("mlp_ppo", "agent.algorithm.std_learning_rate=0.01"): r"agent\.algorithm\.std_learning_rate: 0\.01",
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("case", NEEDS)
def test_what_only_our_ppo_does_is_refused_with_another_instead_of_being_left_undone(name, case):
    message = rf"class_name: '{name}' cannot train {NEEDS[case]}; allowed: PPO, or module:Class of a class derived from"
    with pytest.raises(SpecError, match=message):
        algorithm(
            *case, f"{CLASS}={name}", *["agent.algorithm.critic_learning_rate=null"] * ("mlp" not in case[0])
        )


@pytest.mark.parametrize("case", NEEDS)
def test_a_class_derived_from_our_ppo_takes_its_place_and_gets_its_options(case):
    chosen = algorithm(*case, f"{CLASS}={__name__}:Derived")
    ours = algorithm(*case)
    assert ours["class_name"] == OURS
    assert chosen == ours | {"class_name": f"{__name__}:Derived"}


@pytest.mark.parametrize("name", PLAIN)
def test_another_ppo_trains_what_asks_for_nothing_of_ours(name):
    chosen = algorithm("lif_ppo", f"{CLASS}={name}", "agent.algorithm.critic_learning_rate=null")
    assert chosen["class_name"] == name
    assert not {"learning_rate_floor", "critic_learning_rate", "burn_in"} & set(chosen)


def test_classes_of_a_file_become_names_that_rsl_rl_imports(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from rsl_rl.models import MLPModel\nfrom rsl_rl.modules import GaussianDistribution\n"
        "from spiky_rl.learners.rsl_rl import SpikingPPO\n"
        "class Model(MLPModel): ...\nclass Noise(GaussianDistribution): ...\nclass Own(SpikingPPO): ...\n"
    )
    names = {"actor": "Model", "critic": "Model", "actor.distribution_cfg": "Noise", "algorithm": "Own"}
    host = config() | {"algorithm": {"class_name": "PPO", "learning_rate": 1e-3}}
    chosen = [f"agent.{role}.class_name={file}:{name}" for role, name in names.items()]
    made = make_runner_cfg(resolve_agent("mlp_ppo", "Isaac-Point", host, chosen))
    for role, name in names.items():
        group = made["actor"]["distribution_cfg"] if "." in role else made[role]
        assert resolve_callable(group["class_name"]).__name__ == name
    with pytest.raises(SpecError, match="actor.class_name: rsl_rl does not find .* no attribute 'None_'"):
        make_runner_cfg(
            resolve_agent("mlp_ppo", "Isaac-Point", host, [f"agent.actor.class_name={file}:None_"])
        )


class Tempered(MLPModel):
    """A model that a task registers with an option of its own."""

    def __init__(self, obs, obs_groups, obs_set, output_dim, hidden_dims, temperature):
        super().__init__(obs, obs_groups, obs_set, output_dim, hidden_dims)
        self.temperature = temperature


def actor(agent: str, *overrides: str) -> dict:
    """Of a task with a model of its own."""
    host = config()
    host.pop("save_interval")
    host["algorithm"] = {"class_name": "PPO"}
    host["actor"] |= {"class_name": f"{__name__}:Tempered", "temperature": 2.0}
    layers = ["agent.network.layers=[8]"] if agent == "lif_ppo" else []
    return make_runner_cfg(resolve_agent(agent, "Isaac-Point", host, [*layers, *overrides]))["actor"]


@pytest.mark.parametrize(("agent", "given"), [("mlp_ppo", 2.0), ("lif_ppo", None), ("gru_ppo", None)])
def test_options_of_a_tasks_own_model_are_left_out_where_another_takes_its_place(agent, given):
    assert actor(agent).get("temperature") == given


def test_an_option_that_a_spiking_model_lacks_is_refused_where_somebody_asks_for_it():
    with pytest.raises(SpecError, match="agent.actor.rnn_type: SpikingModel has no such option; allowed: "):
        actor("gru_ppo", "agent.network={name: feedforward, layers: [8]}")


def test_an_ann_is_not_replaced_by_the_spiking_model_of_the_tasks_own_configuration():
    host = config() | {"algorithm": {"class_name": "PPO"}}
    for name in ("spiky_rl.learners.rsl_rl:SpikingModel", "spiky_rl.hosts.rsl_rl.model:SpikingModel"):
        host["actor"] |= {"class_name": name, "network": {"name": "feedforward"}}
        with pytest.raises(SpecError, match=f"agent.actor.class_name: .*{name}"):
            make_runner_cfg(resolve_agent("mlp_ppo", "Isaac-Point", host))
        actor = make_runner_cfg(
            resolve_agent("mlp_ppo", "Isaac-Point", host, ["agent.actor.class_name=MLPModel"])
        )["actor"]
        assert actor["class_name"] == "MLPModel" and "network" not in actor
