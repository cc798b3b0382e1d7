"""JSON Schemas: what editors say of a file is what the checks say, and the files in schemas/ are what the registry gives."""

import json
from pathlib import Path

import pytest

from spiky_rl.cli import common
from spiky_rl.cli.show import show
from spiky_rl.config.safe_loading import parse_yaml
from spiky_rl.experiments.design.json_schema import SCHEMAS, format_schema

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

ROOT = Path(__file__).parents[2]
FILES = {
    "agent": sorted(
        path
        for pattern in ("agents/*.yaml", "studies/*/agents/*.yaml", "examples/*_ppo.yaml")
        for path in ROOT.glob(pattern)
    ),
    "task": sorted((ROOT / "tasks").glob("*.yaml")),
    "study": sorted(
        {*(ROOT / "studies").glob("*.yaml"), *(ROOT / "studies").glob("*/study.yaml")}
        - {ROOT / "studies" / "seeds.yaml"}
    ),
}
SHIPPED = [
    pytest.param(kind, path, id=f"{kind}-{path.parent.name}-{path.stem}")
    for kind in FILES
    for path in FILES[kind]
]


@pytest.fixture(name="checks", scope="module")
def validators():
    made = {kind: json.loads(format_schema(kind)) for kind in SCHEMAS}
    for one in made.values():
        jsonschema.Draft202012Validator.check_schema(one)
    return {kind: jsonschema.Draft202012Validator(one) for kind, one in made.items()}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_is_in_the_repository_is_what_the_registry_gives(kind):
    assert (ROOT / "schemas" / f"{kind}.json").read_text() == format_schema(kind) + "\n", "run make results"


@pytest.mark.parametrize(("kind", "path"), SHIPPED)
def test_a_shipped_file_names_its_schema_and_keeps_to_it(kind, path, checks):
    text = path.read_text()
    named = text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == ROOT / "schemas" / f"{kind}.json"
    checks[kind].validate(parse_yaml(text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("agent", "network: {name: feedforward, neuron: liff}"),
        ("agent", "network: {name: feedforward, neuron: {name: lif, tau: -1.0}}"),
        ("agent", "network: {name: feedforward, neuron: {name: lif, taau: 1.0}}"),
        ("agent", "network: {name: feedforward, layers: [128, half]}"),
        ("agent", "algorithm: {learning_rate: fast}"),
        ("agent", "algorithm: {schedule: adaptiv}"),
        ("agent", "tasks: {Isaac-Ant: {netwrk: {steps: 2}}}"),
        ("task", "id: Isaac-Ant\nnum_envs: {cpu: 4}"),
        ("task", "id: Isaac-Ant\nmeasure: speed"),
        ("study", "agents: [lif_ppo]\ntasks: []"),
        ("study", "agents: [lif_ppo]\ntasks: [Isaac-Ant]\nseed: 1"),
        ("study", "agents: [lif_ppo]\ntasks: [Isaac-Ant]\nvary: {network.steps: [1]}"),
    ],
)
def test_slips_are_found(kind, text, checks):
    assert list(checks[kind].iter_errors(parse_yaml(text)))


@pytest.mark.parametrize(
    "text",
    [
        "network: path/mine.py:Mine",
        "network: {name: feedforward, neuron: {name: 'mine.py:Mine', anything: 1}}",
        "network: {name: feedforward, layers: [8, 8], neuron: [lif, {name: alif, tau: 3.0}]}",
        "network: {name: feedforward, recurrent: null}",
        "tasks: {Isaac-Ant: {network: {neuron: {tau: 3.0}}}}",
        "algorithm: {critic_learning_rate: null, rnd_cfg: null}",
    ],
)
def test_what_the_checks_allow_is_allowed(text, checks):
    checks["agent"].validate(parse_yaml(text))


def test_a_schema_that_there_is_not_is_answered_with_the_nearest(capsys):
    assert common.run(show, ["schema", "studdy"]) == 2
    assert "did you mean 'study'" in capsys.readouterr().err
    assert common.run(show, ["schema"]) == 2
    assert "schema: nothing given; allowed: agent, task, study" in capsys.readouterr().err
