"""Hosts and learners are asked for their abilities, and what one lacks is refused in one line."""

from importlib.util import find_spec

import pytest

from spiky_rl import hosts, learners
from spiky_rl.config.options import UserError
from spiky_rl.config.schema import TaskSpec
from spiky_rl.hosts.base import LIVE_VIEW, SECOND_SIMULATION, VIDEO, Host, TaskRequest, UnknownTask
from spiky_rl.learners.base import DISTILLS, DISTRIBUTED, EXPORTS, Learner


class Bare(Host):
    """A host without any ability."""

    name, title, abilities, distributions = "bare", "Bare", frozenset(), ("torch",)

    def owns(self, task):
        return True

    def list_tasks(self):
        return ()

    def require_installed(self, video=False):
        """Be installed."""

    def resolve_task(self, name):
        return name

    def load_task(self, request):
        raise NotImplementedError


@pytest.mark.parametrize(
    "env, words",
    [
        ({"scene": {"num_envs": 8}}, ["env.scene.num_envs: 8", "--num_envs"]),
        ({"seed": 3, "decimation": 2}, ["env.seed: 3", "use --seed"]),
        ({"sim": {"device": "cpu"}}, ["env.sim.device: 'cpu'", "use --device"]),
    ],
)
def test_a_task_file_does_not_set_what_every_run_sets(env, words):
    request = TaskRequest(
        "Isaac-Ant", learners.get_learner("rsl_rl"), TaskSpec(id="Isaac-Ant", name="own", env=env)
    )
    with pytest.raises(UserError, match="tasks/own.yaml") as refused:
        request.flatten_task_env()
    assert all(word in str(refused.value) for word in words)


with_isaaclab = pytest.mark.skipif(find_spec("isaaclab_tasks") is None, reason="needs Isaac Lab")


@pytest.mark.parametrize("name", hosts.list_hosts())
def test_every_host_is_found_by_its_name_and_owns_some_task(name):
    host = hosts.get_host(name)
    assert (
        isinstance(host, Host)
        and host.name == name
        and host.abilities <= {VIDEO, LIVE_VIEW, SECOND_SIMULATION}
    )


@pytest.mark.parametrize(
    "task, host",
    [
        ("Isaac-Ant", "isaaclab"),
        ("Isaac-Ant-v0", "isaaclab"),
        ("ant", "isaaclab"),
        pytest.param("Isaac-DrLegs-Walk-v0", "isaaclab", marks=with_isaaclab),
        ("HalfCheetah-v5", "gymnasium"),
        ("HalfCheetah", "gymnasium"),
        ("CartPole-v1", "gymnasium"),
    ],
)
def test_a_task_finds_its_host(task, host):
    assert hosts.find_host(task).name == host


@pytest.mark.parametrize("task", ["Isaac-Ant-v0", "IsaacContrib-Velocity-Flat-UnitreeGo1-v0"])
def test_without_any_simulator_a_task_of_isaac_lab_is_isaac_labs(monkeypatch, task):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for lists in ("isaaclab.tasks", "mjlab.host"):  # whose answer is kept for the process
        monkeypatch.setattr(f"spiky_rl.hosts.{lists}.list_registered_ids", frozenset)
    assert hosts.find_host(task).name == "isaaclab"


def test_a_host_that_cannot_list_its_tasks_gives_way_to_one_that_owns_the_task(monkeypatch):
    monkeypatch.setattr(hosts, "list_hosts", lambda: ("a", "b"))
    given = {"a": Bare(), "b": Bare()}
    monkeypatch.setattr(hosts, "get_host", given.get)
    assert hosts.find_host("Some-Task") is given["b"]
    monkeypatch.setattr(given["b"], "owns", lambda task: False)
    assert hosts.find_host("Some-Task") is given["a"]


@pytest.mark.parametrize(
    "task, nearest",
    [
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        pytest.param("Isaac-Amt-v0", "Isaac-Ant", marks=with_isaaclab),
        pytest.param("Isaac-Ant-v7", "did you mean Isaac-Ant", marks=with_isaaclab),
        pytest.param("Isaac-DrLegs-Walk-v1", "Isaac-DrLegs-Walk-v0", marks=with_isaaclab),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest_names_of_all_hosts(task, nearest):
    with pytest.raises(UnknownTask) as refused:
        hosts.find_host(task, "--task")
    assert str(refused.value).startswith("--task") and task in str(refused.value)
    assert nearest in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", learners.list_learners())
def test_every_learner_is_found_by_its_name(name):
    learner = learners.get_learner(name)
    assert isinstance(learner, Learner) and learner.name == name
    assert learner.abilities <= {DISTRIBUTED, EXPORTS, DISTILLS}
    assert learner.loggers[0] == "tensorboard"
    assert learners.DEFAULT_LEARNER in learners.list_learners()


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: Bare().require_ability(VIDEO, "--video"), ("--video", "Bare", "no video")),
        (lambda: Bare().configure_assets("nucleus"), ("--assets nucleus", "Bare", "auto, local")),
        (lambda: Bare().check_visualizers(["viser"], False), ("--visualizer viser", "Bare", "no live view")),
        (lambda: Bare().parse_conditions("all,push"), ("--conditions", "'push'", "nominal, all, stress")),
        (
            lambda: learners.get_learner("skrl").require_ability(EXPORTS, "--export"),
            ("--export", "--rl_library skrl", "allowed: rsl_rl"),
        ),
    ],
)
def test_what_a_host_or_a_learner_lacks_is_refused_in_one_line(ask, words):
    with pytest.raises(UserError) as refused:
        ask()
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_host_without_conditions_has_nominal_alone():
    assert Bare().parse_conditions("all") == Bare().parse_conditions("nominal,stress") == ["nominal"]
    Bare().check_visualizers([], True)


def test_hosts_and_learners_are_known_without_their_libraries():
    import subprocess
    import sys

    code = (
        "import sys; from spiky_rl import hosts, learners\n"
        "[hosts.get_host(n) for n in hosts.list_hosts()]; [learners.get_learner(n) for n in learners.list_learners()]\n"
        "sys.exit(bool({'torch', 'isaaclab', 'rsl_rl', 'skrl', 'newton', 'gymnasium'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_isaac_lab_is_installed_from_a_clone_for_its_physics_is_on_no_index(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"isaaclab is not installed; .*pip install ./isaaclab_mujoco '\.\[isaaclab\]'"
    ):
        hosts.find_host("Isaac-Ant").require_installed()
