"""A tuning survives being killed in the middle of a training, its values train an agent, and what is none is refused in one line."""

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from spiky_rl.cli.compare import compare
from spiky_rl.cli.tune import tune
from spiky_rl.experiments.design import study
from spiky_rl.experiments.run import tuning_plan
from spiky_rl.experiments.run.comparison import plan_study
from spiky_rl.experiments.run.planning import ExecutionOptions
from tests import processes
from tests.cli.refusals import refused

for module, extra in (("isaaclab", "isaaclab"), ("optuna", "experiments")):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: the extra '{extra}'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(2 * processes.PATIENCE)
SPACE = {
    "shared": {"agent.algorithm.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
    "own": {"lif_ppo": {"agent.network.steps": {"low": 1, "high": 2}}},
}
SMALL = "--tasks cartpole --num_envs 64 --device cpu --assets local --episodes 2".split()
GIVEN = ["--agents", "lif_ppo", *SMALL, "--trials", "2", "--seeds", "90000", "--budget", "env_steps=96000"]
CELL = "Isaac-Cartpole.lif_ppo.trial{}.rung{}.seed90000"


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return path


def write_tuned(folder, agent, algorithm):
    head = {"version": 1, "tuning": "mine", "trials": 2, "seeds": [90000], "budget": "some"}
    tasks = {"Isaac-Cartpole": {agent: {"agent": {"algorithm": algorithm}}}}
    (folder / "tuned.yaml").write_text(yaml.safe_dump({**head, "tasks": tasks}))


def test_a_study_has_the_digests_of_its_agents_as_they_were_tuned(tmp_path):
    given = {"agents": "lif_ppo", "tasks": ["cartpole"], "num_envs": 64}
    place, robots = ExecutionOptions(device="cpu", assets="local", dry_run=True).resolve_assets("cartpole")
    asked = tuning_plan.make_tuning_design({**given, "seeds": "90000"}, tuning_plan.TuneOptions(trials=2))
    checked = tuning_plan.check_tuning(asked, place, robots)
    write_tuned(tmp_path, "lif_ppo", {"learning_rate": 0.002})
    more = {"seeds": "0", "tuning": str(tmp_path), "vary": {"agent.network.steps": [2, 3]}}
    cells = plan_study(study.build_study("mine", {**given, **more}), tmp_path / "study", place).cells
    trained = [cell for cell in cells if cell.trains_agent]
    assert [cell.base_hash for cell in trained] == 2 * [
        checked.facts[checked.pairs[0].facts["specification"]]
    ]
    assert len({cell.spec_hash for cell in trained} | {trained[0].base_hash}) == 3
    assert [cell.base_hash for cell in cells if not cell.trains_agent] == [None]


GAMMAS = {"lif_ppo": 0.97, "gru_ppo": 0.96}


def test_a_cell_is_trained_with_the_values_of_its_agents_own_tuning_and_its_commands_name_the_copy(tmp_path):
    for agent, gamma in GAMMAS.items():
        (tmp_path / agent).mkdir()
        write_tuned(tmp_path / agent, agent, {"gamma": gamma})
    tuning = {agent: str(tmp_path / agent) for agent in GAMMAS}
    given = {"agents": ["mlp_ppo", *tuning], "tasks": ["cartpole"], "num_envs": 64, "seeds": "0"}
    place = ExecutionOptions(device="cpu", assets="local", dry_run=True)
    plan = plan_study(study.build_study("mine", {**given, "tuning": tuning}), tmp_path / "study", place)
    plain = plan_study(study.build_study("mine", given), tmp_path / "plain", place)
    plan.write()
    before = {cell.name: cell for cell in plain.cells}
    assert (tmp_path / "study" / "study.json").exists()
    for cell in plan.cells:
        copy = f"tuned/{cell.agent}/tuned.yaml" if cell.agent in tuning else ""
        assert cell.specification.tuned == copy and all(
            f'--tuning "$OUT/{copy}"' in c for c in cell.commands
        ) == bool(copy)
        if copy:
            source = tmp_path / cell.agent / "tuned.yaml"
            assert (tmp_path / "study" / copy).read_bytes() == source.read_bytes()
            assert cell.specification.spec["algorithm"]["gamma"] == GAMMAS[cell.agent]
            assert cell.base_hash == before[cell.name].spec_hash != cell.spec_hash
        else:
            assert (cell.base_hash, cell.hash) == (None, before[cell.name].hash)


@pytest.mark.slow
def test_a_tuning_killed_in_the_middle_of_a_training_goes_on_from_its_checkpoint_and_its_values_are_used(
    space, tmp_path
):
    out = tmp_path / "out"
    line = [ROOT / "scripts" / "tune.py", *GIVEN, "--space", space, "--out", out]
    with processes.Command(*line) as command:
        command.until(lambda: list(out.glob(f"cells/{CELL.format(1, 2)}/run/*/*/*/progress.json")))
        command.send(signal.SIGKILL)
    before = {path: path.read_bytes() for path in out.glob("cells/*/result.json")}
    assert len(before) == 5
    done = processes.run(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in before} == before
    last = json.loads((out / "cells" / CELL.format(1, 2) / "result.json").read_text())
    steps = last["curve"]["env_steps"]
    assert steps == [
        64 * 16 * (i + 1) for i in range(len(steps))
    ], "the curve is whole, over three rungs and a kill"
    assert 32_000 <= last["training"]["env_steps"] < 32_000 + 64 * 16
    assert (out / "report.html").exists()

    tuned = yaml.safe_load((out / "tuned.yaml").read_text())["tasks"]["Isaac-Cartpole"]["lif_ppo"]
    more = ["--seeds", "0", "--budget", "env_steps=2000", "--conditions", "nominal", "--tuning", out]
    made = processes.run(
        ROOT / "scripts" / "compare.py", "--agents", "lif_ppo", *SMALL, *more, "--out", tmp_path / "study"
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (params,) = (tmp_path / "study").glob("cells/Isaac-Cartpole.lif_ppo.seed0/run/*/*/*/params/spec.yaml")
    if tuned["trial"]:
        row = yaml.safe_load(params.read_text())["algorithm.learning_rate"]
        assert row == {
            "value": tuned["agent"]["algorithm"]["learning_rate"],
            "origin": "tuned.yaml for Isaac-Cartpole",
        }
    assert (
        "from 2 trials of every agent with other seeds (90000)"
        in (tmp_path / "study" / "report.md").read_text()
    )


REFUSED = {
    "unknown agent": (["--agents", "lif_poo"], ["'lif_poo'", "mean 'lif_ppo'"]),
    "unknown space": (["--space", "pilto"], ["'pilto'", "mean 'pilot'"]),
    "no space file": (["--space", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
    "agent without dimensions": (["--agents", "lif_ppo,lif_rstdp"], ["lif_rstdp", "own"]),
    "no trial": (["--trials", "0"], ["--trials: 0", "between 1 and"]),
    "unknown budget": (["--budget", "steps=3"], ["'steps'", "mean 'env_steps'"]),
    "an override of a dimension": (
        ["agent.algorithm.learning_rate=0.1"],
        ["agent.algorithm.learning_rate", "pilot"],
    ),
    "an activity of none": (["--agents", "mlp_ppo", "--activity", "firing_rate"], ["mlp_ppo does not spike"]),
    "a dimension of continuous actions alone": (
        ["--tasks", "CartPole-v1", "--budget", "env_steps=5e5", "--dry-run"],
        ["--space pilot: lif_ppo on CartPole-v1: agent.actor.distribution_cfg.init_std"],
    ),
    "no database's name": (["--storage", "foo", "--dry-run"], ["--storage", "sqlite:", "'foo'"]),
    "no database": (
        ["--storage", "postgresql://me:secret@nowhere/x"],
        ["--storage postgresql://me@nowhere/x"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tuning_that_is_none_is_refused_in_one_line(case, tmp_path, capsys):
    more, words = REFUSED[case]
    said = refused(tune, [*GIVEN, *more, "--out", tmp_path / "out"], capsys)
    assert all(word in said for word in words) and "secret" not in said
    assert not (tmp_path / "out" / "tuning.json").exists()


def test_a_value_that_the_agent_does_not_take_is_refused_before_a_trial(tmp_path, capsys):
    wrong = {**SPACE, "own": {"lif_ppo": {"agent.network.neuron.tua": {"low": 1.0, "high": 2.0}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(wrong))
    said = refused(tune, [*GIVEN, "--space", tmp_path / "mine.yaml", "--out", tmp_path / "out"], capsys)
    assert "tua" in said and "mean 'tau'" in said and not (tmp_path / "out").exists()


def test_a_study_that_names_a_tuning_that_is_not_there_is_refused_in_one_line(tmp_path, capsys):
    line = ["--agents", "lif_ppo", *SMALL, "--tuning", tmp_path / "nowhere.yaml", "--out", tmp_path / "out"]
    said = refused(compare, line, capsys)
    assert f"tuning: cannot read '{tmp_path / 'nowhere.yaml'}'" in said and not (tmp_path / "out").exists()


def test_a_condition_that_an_agent_of_a_study_cannot_have_is_refused_by_the_agent_s_name(tmp_path, capsys):
    line = ["--agents", "lif_ppo,mlp_ppo", *SMALL, "--conditions", "lost_spikes", "--out", tmp_path / "out"]
    assert "mlp_ppo does not spike" in refused(compare, line, capsys) and not (tmp_path / "out").exists()


def test_a_dry_run_shows_what_is_tuned_and_writes_nothing(tmp_path, capsys):
    assert tune([*GIVEN, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "32,000 environment steps per trial" in said.out and "network.neuron.tau" in said.out
    assert "2 trials of 1 seed, fewer than 30 of 2" in said.out + said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "own", "least"),
    [
        (["--budget", "env_steps=12287"], {}, "env_steps=12288"),
        (["--max_iterations", "11"], {}, "env_steps=12288"),
        (["--budget", "env_steps=12288"], {"agent.num_steps_per_env": {"low": 16, "high": 32}}, "24576"),
    ],
    ids=["budget", "task's budget", "a dimension lengthens iterations"],
)
def test_a_first_rung_of_less_than_an_iteration_is_refused_before_a_trial(more, own, least, tmp_path, capsys):
    line = [*GIVEN[:-2], "--out", str(tmp_path / "out"), "--dry-run"]
    if own:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"shared": own, "own": {"lif_ppo": {}}}))
        line += ["--space", str(tmp_path / "mine.yaml")]
    given = [f"agent.max_iterations={more[1]}"] if more[0] == "--max_iterations" else more
    said = refused(tune, [*line, *given], capsys)
    assert "--budget" in said and f"allowed: {'' if '=' in least else 'env_steps='}{least} or more" in said
    assert not (tmp_path / "out").exists()


def test_a_first_rung_of_one_iteration_and_one_in_seconds_are_planned(tmp_path):
    line = [*GIVEN[:-2], "--dry-run", "--out", str(tmp_path / "out")]
    for budget in ("env_steps=12288", "wall=1"):
        assert tune([*line, "--budget", budget]) == 0
    assert tune([*line, "--budget", "env_steps=100", "--activity", "firing_rate"]) == 0, "one rung"


def test_by_default_a_tuning_has_trials_and_seeds_enough(tmp_path, capsys):
    few = ["--agents", "lif_ppo", *SMALL, "--budget", "env_steps=96000", "--dry-run"]
    assert tune([*few, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "30 trials, seeds 90000, 90001" in said.out and "fewer than" not in said.out + said.err
