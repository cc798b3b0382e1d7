"""``evaluate.py`` as a user runs it, on the real simulator."""

import json
import math
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from spiky_rl.cli.evaluate import evaluate
from spiky_rl.config import registry, spec
from spiky_rl.hosts.isaaclab.condition_names import ROBUSTNESS_NAMES
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS
from tests import processes
from tests.cli.refusals import run_command, run_lines

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
pytestmark = pytest.mark.timeout(900)

ROOT = processes.ROOT
ROBOTS = ["--device", "cpu", "--assets", "local"]
EPISODES = 3
SHORT, STEPS = "env.episode_length_s=1.5", 90


def command(script: str, *arguments: object) -> CompletedProcess:
    return processes.run(ROOT / "scripts" / script, *arguments, *ROBOTS)


def evaluated(*arguments: object) -> tuple[dict, CompletedProcess]:
    """What the command wrote, and what it said; the path of the file stands last."""
    done = command("evaluate.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(Path(done.stdout.strip().splitlines()[-1]).read_text(encoding="utf-8")), done


def train(root: Path, task: str, agent: str, *arguments: object) -> Path:
    """A run of two iterations; its folder."""
    line = ["--task", task, "--agent", agent, "--log_root", root, "--num_envs", 16, "--max_iterations", 2]
    done = command("train.py", *line, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip().splitlines()[-1]).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("logs"), "cartpole", "lif_ppo")


def of(run: Path) -> list[object]:
    """Arguments that name the run."""
    agent = ["--task", "cartpole", "--agent", "lif_ppo"]
    return [*agent, "--log_root", run.parents[2], "--episodes", EPISODES, SHORT]


@pytest.fixture(scope="module")
def whole(run) -> tuple[dict, CompletedProcess]:
    """All conditions."""
    return evaluated(*of(run))


def test_an_evaluation_lies_beside_its_checkpoint_with_every_condition(run, whole):
    found, done = whole
    assert Path(done.stdout.strip().splitlines()[-1]) == run / "evaluation.json"
    assert found["version"] == 1 and found["checkpoint"] == str(run / "model_1.pt")
    assert (found["task"], found["agent"], found["library"]) == ("Isaac-Cartpole", "lif_ppo", "rsl_rl")
    assert (found["device"], found["seed"], found["episodes"]) == ("cpu", 42, EPISODES)
    assert found["solved"] == 4.5 and found["assets"].startswith("local") and "torch" in found["versions"]
    assert {"mujoco", "numpy"} <= set(found["versions"]) and len(found["provenance"]["kernels"]) == 16
    assert found["provenance"]["threads"] == int(
        found["provenance"]["omp_num_threads"] or found["provenance"]["threads"]
    )
    assert list(found["conditions"]) == list(ROBUSTNESS_NAMES)
    for name, condition in found["conditions"].items():
        assert condition["text"] == CONDITIONS[name].text
        assert len(condition["returns"]) == len(condition["lengths"]) == EPISODES
        assert all(1 <= length <= STEPS for length in condition["lengths"])
        mean = sum(condition["returns"]) / EPISODES
        assert condition["mean_return"] == pytest.approx(mean)
        variance = sum((value - mean) ** 2 for value in condition["returns"]) / (EPISODES - 1)
        assert condition["std_return"] == pytest.approx(math.sqrt(variance))
        assert condition["mean_length"] == sum(condition["lengths"]) / EPISODES
        assert condition["measures"] == {"upright": pytest.approx(condition["mean_length"] / 60)}
        assert 0 < condition["firing_rate"] < 1 and condition["operations"] > 0


def test_conditions_differ_from_nominal_in_their_returns(whole):
    conditions = whole[0]["conditions"]
    nominal = conditions["nominal"]["returns"]
    # the first push comes after a second at least, when an untrained policy may have lost its cart
    acting = [name for name in ROBUSTNESS_NAMES if name not in ("nominal", "push")]
    assert all(conditions[name]["returns"] != nominal for name in acting)


def test_the_cost_is_that_of_an_action_under_nominal(whole):
    found = whole[0]
    assert found["cost"]["effective_operations"] == pytest.approx(
        found["conditions"]["nominal"]["operations"]
    )
    assert found["cost"]["ann_dense_operations"] == 4 * 32 + 32 * 32 + 32
    assert found["cost"]["actions_per_second"] > 0 and found["cost"]["energy_nj"]["fp32"] > 0


def test_a_policy_is_measured_in_integers_beside_its_evaluation_in_single_precision(run, whole):
    found, done = evaluated(*of(run), "--quantize", "int8", "--conditions", "nominal")
    assert Path(done.stdout.strip().splitlines()[-1]) == run / "evaluation_int8.json"
    assert found["quantize"] == "int8" and whole[0]["quantize"] is None
    nominal, single = found["conditions"]["nominal"], whole[0]["conditions"]["nominal"]
    assert nominal["returns"] != single["returns"], "rounding shows"
    assert nominal["operations"] == pytest.approx(single["operations"], rel=0.2)
    assert nominal["firing_rate"] == pytest.approx(single["firing_rate"], rel=0.2)


def test_the_table_has_a_line_per_condition(whole):
    lines = whole[1].stdout.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in ROBUSTNESS_NAMES)
    assert "upright" in whole[1].stdout and max(map(len, lines[:-1])) <= 80


def test_a_condition_is_measured_the_same_whatever_is_measured_beside_it(run, whole, tmp_path):
    out = tmp_path / "new" / "some.json"
    found, _ = evaluated(*of(run), "--conditions", "friction,observation_noise", "--out", out)
    assert out.is_file() and list(found["conditions"]) == ["nominal", "friction", "observation_noise"]
    for name, condition in found["conditions"].items():
        assert condition == whole[0]["conditions"][name], name
    other, _ = evaluated(*of(run), "--conditions", "nominal", "--out", out, "--seed", 1)
    assert other["conditions"]["nominal"]["returns"] != whole[0]["conditions"]["nominal"]["returns"]


def test_random_actions_have_returns_and_no_cost(tmp_path):
    arguments = "--task cartpole_masked --agent mlp_ppo --checkpoint random --conditions push".split()
    arguments += ["--log_root", tmp_path, "--out", tmp_path / "random.json", "--episodes", EPISODES, SHORT]
    found, _ = evaluated(*arguments)
    assert (found["checkpoint"], found["task"], found["cost"]) == ("random", "cartpole_masked", None)
    for condition in found["conditions"].values():
        assert condition["firing_rate"] is None and condition["operations"] is None
        assert len(set(condition["returns"])) == EPISODES


AGENTS = ["lif_ppo", "alif_recurrent_ppo", "lif_reservoir_ppo", "gru_ppo"]
"""Without a state, with one, one that is not replayed, and an ANN's."""


@pytest.fixture(scope="module", params=["rsl_rl", pytest.param("skrl", marks=pytest.mark.slow)])
def policies(request, tmp_path_factory) -> dict[str, dict]:
    """Evaluations of untrained policies by agent, from one simulator per library."""
    if request.param == "skrl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    logs = str(tmp_path_factory.mktemp("logs"))
    done = processes.run("-m", "tests.cli.evaluated_agents", request.param, logs, *AGENTS)
    rows = [json.loads(text) for text in done.stdout.splitlines() if text.startswith('{"agent"')]
    assert len(rows) == len(AGENTS), done.stdout[-1000:] + done.stderr[-3000:]
    return {row["agent"]: row for row in rows}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_kind_of_policy_can_be_evaluated(policies, agent):
    row = policies[agent]
    assert "error" not in row, row["error"]
    spikes = "network" in spec.read_agent(agent)[1]
    for condition in row["conditions"].values():
        assert all(map(math.isfinite, condition["returns"]))
        assert (condition["firing_rate"] > 0) == spikes and condition["operations"] > 0
    returns = [condition["returns"] for condition in row["conditions"].values()]
    assert all(
        returns.count(each) == 1 for each in returns[1:4] + returns[5:]
    ), "a changed copy acts otherwise"
    cost = row["cost"]["effective_operations"]
    assert cost == pytest.approx(row["conditions"]["nominal"]["operations"], rel=1e-6)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_activity_of_all_environments_is_the_mean_of_their_groups(policies, agent):
    """So a group is measured in its own states."""
    assert policies[agent]["parts"] == pytest.approx(policies[agent]["whole"], rel=1e-6)


@pytest.mark.slow
def test_a_policy_that_sees_pixels_is_measured_too(tmp_path):
    train(tmp_path, "cartpole_camera_small", "lif_conv_ppo")
    arguments = ["--task", "cartpole_camera_small", "--agent", "lif_conv_ppo", "--log_root", tmp_path]
    found, _ = evaluated(*arguments, "--episodes", 2, SHORT)
    assert list(found["conditions"]) == list(ROBUSTNESS_NAMES)
    nominal = found["conditions"]["nominal"]["returns"]
    for name in ("observation_noise", "sensor_dropout", "sensor_loss"):
        assert found["conditions"][name]["returns"] != nominal, name


@pytest.mark.slow
def test_a_trained_policy_stands_up_to_conditions_as_far_as_they_let_it(tmp_path):
    run = train(tmp_path, "cartpole", "lif_ppo", "--num_envs", 512, "--max_iterations", 60)
    found, _ = evaluated("--task", "cartpole", "--agent", "lif_ppo", "--log_root", run.parents[2])
    returns = {name: condition["mean_return"] for name, condition in found["conditions"].items()}
    assert returns["nominal"] > 4.5
    for name in ("observation_noise", "sensor_dropout", "sensor_loss", "push", "friction"):
        assert 0.0 < returns[name] < returns["nominal"], name
    assert returns["mass"] == pytest.approx(
        returns["nominal"], abs=0.1
    ), "the rail's damping outweighs a cart's mass"


# What is refused, before a simulator starts

LIGHT = {
    "unknown condition": (["--conditions", "nominal,pusch"], ["--conditions", "'pusch'", "mean 'push'"]),
    "twice": (["--conditions", "mass,mass"], ["--conditions", "'mass'", "2 times"]),
    "no episodes": (["--episodes", "0"], ["--episodes: 0", "between 1 and"]),
    "environments": (["--num_envs", "8"], ["--num_envs", "--episodes"]),
    "film": (["--video"], ["--video", "spiky play"]),
    "length of a film": (["--video_length", "8"], ["--video_length", "spiky play"]),
    "nowhere to write": (["--checkpoint", "random"], ["--checkpoint random", "--out"]),
    "a folder": (["--out", "{folder}"], ["--out", "is a folder"]),
    "below a file": (["--out", "{file}/below/x.json"], ["--out", "{file}", "not a folder"]),
    "no place for files": (["--out", "/proc/x/y.json"], ["--out: cannot write to '/proc/x'"]),
    "abbreviated": (["--cond", "push"], ["--cond", "mean '--conditions'"]),
    "integers of random actions": (
        ["--checkpoint", "random", "--quantize", "int8", "--out", "x.json"],
        ["--quantize int8", "not --checkpoint random"],
    ),
    "integers of skrl's": (
        ["--rl_library", "skrl", "--quantize", "int8"],
        ["--quantize int8", "--rl_library skrl", "allowed: rsl_rl"],
    ),
    "an ANN in integers": (["--agent", "mlp_ppo", "--quantize", "int8"], ["agent.network: none given"]),
    "neurons in integers": (
        ["--agent", "izhikevich_ppo", "--quantize", "int8"],
        [
            "agent.network.neuron.name: izhikevich given; allowed for c_int8: alif, lif, quadratic, sigma_delta"
        ],
    ),
    "unknown agent": (["--agent", "lif_pppo"], ["'lif_pppo'", "mean 'lif_ppo'"]),
}


@pytest.mark.parametrize("case", LIGHT)
def test_a_bad_command_line_is_refused_in_one_line(case, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    arguments, words = ([text.format(folder=tmp_path, file=file) for text in part] for part in LIGHT[case])
    code = run_command(evaluate, ["--task", "cartpole", "--log_root", tmp_path / "logs", *arguments])
    stderr = capsys.readouterr().err
    assert code == 2 and len(stderr.splitlines()) == 1
    assert all(word in stderr for word in words), stderr


HEAVY = {
    "no run": (["--task", "cartpole"], ["--checkpoint latest", "train one first"]),
    "no memory for so many": (
        ["--task", "cartpole", "--checkpoint", "random", "--out", "x.json", "--episodes", "2147483647"],
        ["--episodes 2147483647 under 7 conditions: needs at least", "reduce its size"],
    ),
    "a fault of a network in integers": (
        ["--task", "cartpole", "--quantize", "int8", "--conditions", "push,dead_neurons"],
        ["--quantize int8: 'dead_neurons' changes a network in single precision"],
    ),
    "two robots": (
        ["--task", "Isaac-Shadow-Handover-Direct"],
        ["push, mass, friction", "right_robot, left_robot"],
    ),
    "another solver": (
        ["--task", "cartpole", "physics=newton_kamino"],
        ["mass, friction", "KaminoPADMMSolverCfg", "newton_mjwarp", "without: nominal"],
    ),
    "sensors on two robots": (
        ["--task", "Isaac-Shadow-Handover-Direct", "--conditions", "sensor_loss"],
        ["--checkpoint latest", "train one first"],
    ),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """What Isaac Lab has to be imported for: one process runs all of these lines, and no simulator starts in it."""
    logs = str(tmp_path_factory.mktemp("logs"))
    lines = {
        case: ("evaluate", [*arguments, *ROBOTS, "--log_root", logs])
        for case, (arguments, _) in HEAVY.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        # the local assets would be refused first: they lack the robots of most of these tasks
        patch.setenv("ISAACSIM_ASSET_ROOT", logs)
        return run_lines(lines)


@pytest.mark.parametrize("case", HEAVY)
def test_what_a_task_cannot_be_put_under_is_refused_before_a_simulator_starts(case, refusals):
    code, stderr = refusals[case]
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert code == 2 and len(errors) == 1, stderr
    assert "starting the simulator" not in stderr
    assert all(word in errors[0] for word in HEAVY[case][1]), errors[0]


def test_the_agents_here_are_shipped():
    assert set(AGENTS) <= set(registry.list_names("agents"))
