"""Whose code a process loads from the cache of kernels, and what is said while they are compiled."""

import itertools
import os
import shutil
import stat

import pytest

from spiky_rl.kernels import compiler
from tests.kernels.test_compiler import LIBRARY, NETWORK, TEXT, entries, python
from tests.kernels.test_compiler import entry, filled  # noqa: F401  # fixtures

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason=compiler.get_missing_message())

WORDY = LIBRARY.replace("basicConfig(", 'basicConfig(level="INFO", ')


def test_one_line_says_what_is_compiled_and_none_what_is_taken_from_the_cache(tmp_path):
    _, (line,) = python(tmp_path, WORDY, TEXT)
    assert line.startswith("log INFO compiling the kernels of a test with ")
    assert python(tmp_path, WORDY, TEXT) == ("42", [])


@pytest.mark.parametrize(
    "umask", [0o000, *(pytest.param(umask, marks=pytest.mark.slow) for umask in (0o002, 0o022))]
)
def test_folder_and_entries_are_this_users_alone_whatever_the_umask(umask, tmp_path):
    code = f"import os; os.umask({umask})\n{LIBRARY}"
    for _ in range(2):
        assert python(tmp_path, code, TEXT) == ("42", [])
    (entry,) = entries(tmp_path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (entry.parent, entry)] == [0o700, 0o700]


def test_a_folder_that_was_readable_by_others_is_closed(tmp_path):
    (tmp_path / "kernels").mkdir(mode=0o755)
    assert python(tmp_path, LIBRARY, TEXT) == ("42", [])
    assert stat.S_IMODE((tmp_path / "kernels").stat().st_mode) == 0o700


FOREIGN = """
import logging, sys
from spiky_rl.config import registry
from spiky_rl.kernels import compiler
logging.basicConfig(format="log %(levelname)s %(message)s")
try:
    print(compiler.compile_library(sys.argv[1], "a test").answer())
except registry.UserError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case not in [("folder", 0o707), ("entry", 0o720)]))
        for case in itertools.product(["folder", "entry"], [0o770, 0o707, 0o777, 0o720])
    ],
)
def test_nothing_is_loaded_from_where_others_may_write(what, mode, entry, tmp_path):
    path = entry if what == "entry" else entry.parent
    path.chmod(mode)
    printed, log = python(tmp_path, FOREIGN, TEXT)
    assert printed == (
        f"refused: {path} may be written by other users (mode {mode:o}), so no code is loaded from it: remove it (rm -r {path})"
        " and run again, or set SPIKY_RL_CACHE to a folder of your own"
    )
    assert log == [] and stat.S_IMODE(path.stat().st_mode) == mode, "nothing is mended in silence"
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    assert python(tmp_path, FOREIGN, TEXT) == ("42", []), "the remedy is one"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("what", ["folder", "entry"])
def test_nothing_is_loaded_that_another_user_owns(what, entry, tmp_path):
    path = entry if what == "entry" else entry.parent
    os.chown(path, 12345, -1)
    printed, log = python(tmp_path, FOREIGN, TEXT)
    assert printed == (
        f"refused: {path} belongs to user 12345; user root loads no code from it: set SPIKY_RL_CACHE to a folder of your own"
    )
    assert log == []


@pytest.mark.slow
def test_a_network_stops_with_the_reason_where_the_cache_is_open_to_others(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    printed, log = python(tmp_path, NETWORK, "", SPIKY_RL_CACHE=tmp_path)
    for backend, line in zip(("auto", "cpu"), printed.splitlines(), strict=True):
        assert (
            line.startswith(f"{backend} refused: ")
            and f"{tmp_path}/kernels may be written by other users" in line
        )
    assert not [line for line in log if "torch backend" in line], "no slow run instead"


CHECK = """
from spiky_rl.config import registry
try:
    registry.configure("networks", {"name": "feedforward", "layers": [3]}, "agent.network")
    print("configured")
except registry.UserError as error:
    print("refused:", error)
"""


@pytest.mark.slow
def test_an_agent_is_refused_before_anything_is_built_and_nothing_is_made_where_there_is_no_cache(tmp_path):
    assert python(tmp_path, CHECK, CUDA_VISIBLE_DEVICES="") == ("configured", [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    printed, _ = python(tmp_path, CHECK, CUDA_VISIBLE_DEVICES="")
    assert printed.startswith(f"refused: {tmp_path}/kernels may be written by other users")
