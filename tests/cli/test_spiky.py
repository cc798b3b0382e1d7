"""One command for all: it lists what there is, starts it, and knows a name that is nearly right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import spiky_rl
from spiky_rl.cli import __main__, common
from spiky_rl.cli.__main__ import CHECKOUT_COMMANDS, COMMANDS, get_summary

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
EVERY = (*COMMANDS, *CHECKOUT_COMMANDS)


def spiky(*arguments):
    line = [sys.executable, "-m", "spiky_rl.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_script_is_a_command():
    assert set(EVERY) == {path.stem for path in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize(
    "command", [*EVERY, *(f"bench {name}" for name in ("classify", "latency", "physics", "updates"))]
)
def test_the_help_names_every_command_as_spiky_verb(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/spiky", *command.split(), "--help"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: spiky {command} ")
    assert not re.findall(rf"\b(?:{'|'.join(EVERY)})\.py\b", text)


@pytest.mark.parametrize(
    ("started", "name", "called"),
    [
        ("/somewhere/bin/spiky", "train", "spiky train"),
        ("/somewhere/spiky_rl/cli/__main__.py", "train", "spiky train"),
        ("scripts/train.py", "train", "train.py"),
        ("scripts/bench.py", "bench latency", "bench.py latency"),
        ("scripts/train.py", "play", "spiky play"),
    ],
)
def test_only_a_script_that_was_started_is_named_as_a_file(started, name, called, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert common.Parser(name, None).prog == called


def test_the_help_of_no_command_of_the_package_imports_torch():
    code = (
        "import contextlib, sys; from spiky_rl.cli.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    sys.argv = ['spiky', name, '--help']\n"
        "    with contextlib.suppress(SystemExit): main()\n"
        "    assert 'torch' not in sys.modules, name"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_a_command_of_the_repository_alone_says_so_without_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(__main__, "PACKAGE", tmp_path / "spiky_rl")
    monkeypatch.setattr(sys, "argv", ["spiky", "bench"])
    assert __main__.main() == 2
    assert capsys.readouterr().err.startswith("error: bench: ")


def test_it_prints_its_version():
    assert spiky("--version").stdout == f"spiky_rl {spiky_rl.__version__}\n"


def test_alone_it_lists_all_commands_and_what_they_do():
    done = spiky()
    assert done.returncode == 0
    assert all(f"  {name}" in done.stdout and get_summary(name) in done.stdout for name in EVERY)
    assert all(len(get_summary(name)) > 10 for name in EVERY)
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_it_starts_what_is_named():
    done = spiky("show", "agents")
    assert done.returncode == 0 and "lif_ppo" in done.stdout


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    done = spiky("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'train'" in done.stderr
