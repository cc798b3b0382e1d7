"""The requests of a cell follow the specification in its folder, and equal those of the commands in its result."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from spiky_rl.cli import evaluate, train
from spiky_rl.cli.flags import parse_settings
from spiky_rl.config import files
from spiky_rl.experiments.design import grid, study
from spiky_rl.experiments.run import cell_requests
from spiky_rl.experiments.run.cells import write_cell
from spiky_rl.experiments.run.planning import AgentResolver, ExecutionOptions
from spiky_rl.run.prepare import make_plan
from spiky_rl.run.run_plan import EvaluateOptions, RunRequest, TrainOptions

if find_spec("isaaclab") is None:
    pytest.skip("Isaac Lab is not installed: the extra 'isaaclab'", allow_module_level=True)

GIVEN = {
    "agents": ["mine.yaml"],
    "tasks": ["cartpole_masked"],
    "seeds": "3",
    "budget": "env_steps=1000",
    "num_envs": 16,
    "episodes": 2,
    "conditions": ["nominal", "push"],
    "vary": {"agent.network.steps": [2]},
    "overrides": ["agent.algorithm.gamma=0.97", "env.episode_length_s=2.0"],
}
MINE = "network: {name: feedforward, layers: [8], neuron: {name: lif, tau: 3.0}}\n"


def listed(config):
    """A configuration in which pairs are lists."""
    return json.loads(json.dumps(config, default=repr))


def parsed(script, line):
    """What a command line asks for: the run, and what else the command takes."""
    if "train" in script:
        args = train.build_parser().parse_intermixed_args(line)
        return parse_settings(RunRequest, args), parse_settings(TrainOptions, args)
    args = evaluate.build_parser().parse_intermixed_args(line)
    return parse_settings(RunRequest, args), parse_settings(EvaluateOptions, args)


TUNED = {"version": 1, "tuning": "small", "trials": 2, "seeds": [90000], "budget": "few"}
TUNED["tasks"] = {"cartpole_masked": {"mine": {"trial": 1, "agent": {"network": {"neuron": {"tau": 5.0}}}}}}
TUNINGS = {"as its file has it": None, "tuned": "tuning", "with a tuning of its own": {"mine": "tuning"}}


@pytest.fixture(scope="module", params=TUNINGS)
def planned(request, tmp_path_factory):
    """A study's folder with its cells, of an agent whose file is gone since, and the plans that their commands gave."""
    folder = tmp_path_factory.mktemp("cell")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "mine.yaml").write_text(MINE)
        files.write_text(folder / "tuning" / "tuned.yaml", yaml.safe_dump(TUNED))
        asked = study.build_study("study", {**GIVEN, "tuning": TUNINGS[request.param]})
        place = ExecutionOptions(device="cpu", assets="local")
        cells = grid.build_cells(
            asked, AgentResolver(asked, place), grid.CellResources(place.device, place.assets)
        )
        by_hand = {}
        for cell in cells:
            write_cell(folder, cell)
            if copy := cell.specification.tuned:
                files.write_text(folder / copy, yaml.safe_dump(TUNED))
                assert cell.specification.spec["network"]["neuron"]["tau"] == 5.0
            lines = [shlex.split(command.replace(grid.OUT, str(folder))) for command in cell.commands]
            given = {script: parsed(script, line) for _, script, *line in lines}
            by_hand[cell.name] = {script: (asked, make_plan(asked[0])) for script, asked in given.items()}
        (folder / "mine.yaml").unlink()
        yield folder, by_hand


@pytest.mark.parametrize("budget", [None, "env_steps=1000"])
def test_a_training_that_resumes_ends_at_the_steps_of_its_plan(tmp_path, monkeypatch, budget):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE)
    asked = study.build_study("study", {**GIVEN, "budget": budget})
    place = ExecutionOptions(device="cpu", assets="local")
    _, cell = grid.build_cells(asked, AgentResolver(asked, place), grid.CellResources("cpu", "local"))
    assert cell.trains_agent and cell.env_steps
    write_cell(tmp_path, cell)
    folder = tmp_path / "cells" / cell.name
    _, anew = cell_requests.make_training_request(folder, None, None, False)
    _, resumed = cell_requests.make_training_request(folder, "latest", None, False)
    assert str(anew.budget) == str(budget)
    assert str(resumed.budget) == (budget or f"env_steps={cell.env_steps}")


def test_a_cells_requests_are_those_of_its_commands_with_the_agent_as_it_was_when_planned(planned):
    folder, by_hand = planned
    assert sorted(map(len, by_hand.values())) == [1, 2], "random actions train nothing"
    for name, steps in by_hand.items():
        for script, (given, wanted) in steps.items():
            own = folder / "cells" / name
            found, options = (
                cell_requests.make_training_request(own, None, None, False)
                if "train" in script
                else cell_requests.make_evaluation_request(own)
            )
            plan, theirs = make_plan(found), given[0]
            ours = found.model_copy(update={"spec": None})
            if theirs.checkpoint == "random":  # whose agent does nothing, and which has no run
                ours = ours.model_copy(update={"log_root": theirs.log_root})
            else:
                assert (
                    plan.spec.digest == wanted.spec.digest
                    and plan.spec.list_values() == wanted.spec.list_values()
                )
                assert listed(plan.config) == listed(wanted.config)
            assert plan.host_task.env_cfg.to_dict() == wanted.host_task.env_cfg.to_dict()
            for key in ("task", "registered", "agent", "seed", "num_envs", "device", "physics", "experiment"):
                assert getattr(plan, key) == getattr(wanted, key), key
            theirs = theirs.model_copy(update={"library": found.library})  # a study names the agent's library
            assert ours == theirs and options == given[1]
