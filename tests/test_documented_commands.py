"""Commands that README and guides show are understood, and those of the first five minutes run from top to bottom."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml

import spiky_rl
from benchmarks.run import OTHER_BENCHMARKS
from spiky_rl.cli import __main__
from spiky_rl.config.spec import read_agent
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import UnknownTask
from spiky_rl.networks.base import ForwardRecord
from tests.documented import (
    PAGES,
    ROOT,
    find_own_command,
    read_commands,
    read_inline_commands,
    read_python,
)

COMMANDS = [
    (page, verb, arguments)
    for page in PAGES
    for words in read_commands(page)
    if (found := find_own_command(words)) is not None and found[0] != "--version"
    for verb, arguments in [found]
]
OPENED = {"bench": "benchmarks.run", "verify_gpu": "benchmarks.verify_gpu"}
FURTHER_MODULES = {"mjlab": "Mjlab-"}
"""Package -> prefix of its tasks, which nobody knows without it."""
SHORTENED = {
    "train": ["--max_iterations", "1", "--num_envs", "8", "--device", "cpu", "--no-choose_best"],
    "play": ["--episodes", "1", "--device", "cpu"],
    "evaluate": ["--episodes", "2", "--device", "cpu"],
    "export": ["--device", "cpu"],
    "show": [],
}
"""Verb -> arguments that make a command of README short."""


def open_parser(verb: str, arguments: list[str]):
    """The parser of a command, and its arguments, without the word that names one of several benchmarks."""
    assert verb in (*__main__.COMMANDS, *__main__.CHECKOUT_COMMANDS), f"spiky {verb}: no such command"
    module = OPENED.get(verb, f"spiky_rl.cli.{verb}")
    if verb == "bench" and arguments[:1] and arguments[0] in OTHER_BENCHMARKS:
        module, arguments = f"benchmarks.{OTHER_BENCHMARKS[arguments[0]]}", arguments[1:]
    return importlib.import_module(module).build_parser(), arguments


@pytest.mark.parametrize(
    ("page", "verb", "arguments"),
    COMMANDS,
    ids=[f"{page.name}-{i}-{verb}" for i, (page, verb, _) in enumerate(COMMANDS)],
)
def test_a_documented_command_is_understood(page, verb, arguments):
    parser, arguments = open_parser(verb, arguments)
    args = parser.parse_intermixed_args(arguments)  # a wrong one exits
    agents = getattr(args, "agent", None) or getattr(args, "agents", None) or ()
    for agent in [agents] if isinstance(agents, str) else agents:
        for name in agent.split(","):
            if not name.endswith(".yaml") or (ROOT / name).exists():
                read_agent(str(ROOT / name) if name.endswith(".yaml") else name)
    tasks = getattr(args, "task", None) or getattr(args, "tasks", None) or ()
    for task in [tasks] if isinstance(tasks, str) else tasks:
        for name in task.split(","):
            if ":" not in name and name.upper() != name:
                require_task(name)


def require_task(name: str) -> None:
    try:
        find_host(name)
    except UnknownTask:
        prefixes = [
            prefix for module, prefix in FURTHER_MODULES.items() if importlib.util.find_spec(module) is None
        ]
        assert name.startswith(tuple(prefixes)), f"--task {name}: unknown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_flags_of_commands_within_sentences_exist(page):
    for words in read_inline_commands(page):
        found = find_own_command(words)
        if found is None or found[0] == "--version":
            continue
        verb, arguments = found
        parser, arguments = open_parser(verb, arguments)
        known = {flag for action in parser._actions for flag in action.option_strings}
        given = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{page.name}: {' '.join(words)}"


def test_verbs_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for page in PAGES:
        for words in read_commands(page):
            if words[0] == "make" and len(words) > 1:
                assert words[1] in known, f"{page.name}: make {words[1]}"
        for verb in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert verb in known, f"{page.name}: make {verb}"


def plan_gymnasium(folder, version="3.12") -> str:
    """The commands with which make would set up Gymnasium's environment in a folder."""
    for name in ("pyproject.toml", "setup.py", "requirements.lock"):
        if not (folder / name).exists():
            (folder / name).touch()
    line = ["make", "--dry-run", "-f", str(ROOT / "Makefile"), "UV=uv", f"GYMNASIUM_PYTHON={version}"]
    return subprocess.run(
        [*line, "setup-gymnasium"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def test_another_python_builds_gymnasiums_environment_anew(tmp_path):
    (stamp,) = re.findall(r"^touch (.+)$", plan_gymnasium(tmp_path), re.MULTILINE)
    (tmp_path / stamp).parent.mkdir()
    (tmp_path / stamp).touch()
    assert "touch" not in plan_gymnasium(tmp_path) and "touch" in plan_gymnasium(tmp_path, "3.13")


def test_environments_have_the_pip_that_guides_and_errors_name(tmp_path):
    assert "pip" in plan_gymnasium(tmp_path).partition("--editable")[2].split()
    assert re.search(r"^pip==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


def test_a_wrong_command_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\nspiky train --task Isaac-Ant-v0 \\\n    --agnt x  # comment\nls\n```\n`spiky play --vidoe`",
        encoding="utf-8",
    )
    verb, arguments = find_own_command(read_commands(page)[0])
    assert (verb, arguments) == ("train", ["--task", "Isaac-Ant-v0", "--agnt", "x"])
    with pytest.raises(SystemExit):
        open_parser(verb, arguments)[0].parse_intermixed_args(arguments)
    assert find_own_command(read_commands(page)[1]) is None
    assert read_inline_commands(page) == [["spiky", "play", "--vidoe"]]
    with pytest.raises(AssertionError):
        require_task("Isaac-Hamster-v0")


def test_networks_of_other_libraries_equal_ours_where_the_guide_says_so():
    for module in ("snntorch", "spikingjelly"):
        pytest.importorskip(module, reason=f"{module} is not installed: the extra 'dev'")
    names: dict[str, object] = {}
    for block in read_python(ROOT / "docs" / "coming_from.md"):
        exec(compile(block, "docs/coming_from.md", "exec"), names)  # it asserts that spikes are equal
    assert names["ours"].shape == names["theirs"].shape == (20, 32, 64) and names["ours"].mean() > 0.01


def test_the_agent_of_the_guide_for_users_of_rsl_rl_is_valid(tmp_path):
    text = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    (agent,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    theirs: dict[str, dict] = {}
    exec(read_python(ROOT / "docs" / "coming_from.md")[-1], theirs)
    ours = yaml.safe_load(agent)
    assert theirs["cfg"]["actor"]["hidden_dims"] == ours["network"]["layers"]
    assert theirs["cfg"]["critic"].items() >= ours["critic"].items()
    (tmp_path / "my_agent.yaml").write_text(agent, encoding="utf-8")
    from spiky_rl.run.prepare import check_without_simulator

    check_without_simulator(
        find_host("Isaac-Cartpole"), "Isaac-Cartpole", str(tmp_path / "my_agent.yaml"), [], None
    )


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed: the extra 'gymnasium'")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5 and all(not cell.get("outputs") for cell in notebook["cells"])
    for i, code in enumerate(cells):
        exec(compile(code, f"cell {i}", "exec"), names)
    curve = names["curve"]["return"]
    assert curve[-1] > 2 * curve[0], "it learns"
    assert all(0.0 < layer.float().mean() < 1.0 for layer in names["spikes"])


def test_the_neuron_of_readme_spikes_in_every_layer_and_trains_as_lif_does(tmp_path):
    path = tmp_path / "leaky.py"
    path.write_text(*read_python(ROOT / "README.md"), encoding="utf-8")
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for neuron in ("lif", f"{path}:Leaky"):
        torch.manual_seed(0)
        net = spiky_rl.network(4, 2, layers=[64, 64], neuron=neuron, steps=4)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(20):
            loss = (net(x) - x[:, :2].abs()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    net.network(x.unsqueeze(0), None, record=(record := ForwardRecord()))
    assert all(0.05 < spikes.float().mean() < 0.95 for spikes in record.layer_spikes)
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_commands_of_readme_run_from_top_to_bottom(tmp_path):
    """As a reader types them in an empty folder; trainings and episodes are shortened, and nothing is shown."""
    page = ROOT / "README.md"
    (neuron,) = read_python(page)
    (tmp_path / "leaky.py").write_text(neuron, encoding="utf-8")
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "isaaclab_mujoco" / "src"), os.environ.get("PYTHONPATH", "")]
    )
    ran = []
    for words in read_commands(page):
        if (found := find_own_command(words)) is None or found[0] == "bench":
            continue
        verb, arguments = found
        for flag in ("--budget", "--visualizer", "--episodes"):
            if flag in arguments:
                del arguments[arguments.index(flag) : arguments.index(flag) + 2]
        host = next((word for word in arguments if word.startswith("Isaac-")), "")
        if host and importlib.util.find_spec("isaaclab") is None:
            continue
        line = [sys.executable, "-m", "spiky_rl.cli", verb, *arguments, *SHORTENED[verb]]
        done = subprocess.run(
            line,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        ran.append(verb)
    assert {"train", "play", "evaluate", "export", "show"} <= set(ran)
    assert list((tmp_path / "logs" / "pretrained" / "CartPole-v1.lif_ppo" / "exported").glob("policy.*"))
