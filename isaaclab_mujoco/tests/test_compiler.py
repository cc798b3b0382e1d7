"""A C++ text is compiled once, and only libraries of this user are loaded."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from isaaclab_mujoco.errors import CompileError, PhysicsError
from processes import run

from isaaclab_mujoco import compiler

TEXT = 'extern "C" int answer() { return 42; }'
CACHED = ("get_compiler", "get_compiler_identity", "get_openmp_flags", "get_cache_folder", "compile_library")

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
)


def forget():
    for name in CACHED:
        getattr(compiler, name).cache_clear()


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path, monkeypatch):
    """A cache of its own, and nothing remembered of another."""
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def compile_again():
    compiler.compile_library.cache_clear()
    return compiler.compile_library(TEXT, "a test").answer()


def test_a_text_is_compiled_once_into_a_private_file(folder, monkeypatch):
    assert compile_again() == 42
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == compiler.PRIVATE
    monkeypatch.setattr(compiler, "compile_to", None)
    assert compile_again() == 42


def test_another_text_other_flags_and_another_compiler_have_files_of_their_own(folder, monkeypatch):
    compile_again()
    compiler.compile_library(TEXT + "\n", "a test")
    compiler.compile_library(TEXT, "a test", ("-DX=1",))
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "get_compiler_identity", lambda: "another")
        compile_again()
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "other bytes"])
def test_a_damaged_file_is_compiled_again(folder, damage, caplog):
    compile_again()
    (path,) = folder.iterdir()
    data = path.read_bytes()
    damaged = {"truncated": data[: len(data) // 2], "empty": b"", "other bytes": b"\0" * len(data)}[damage]
    path.unlink()  # the library is mapped
    path.write_bytes(damaged)
    path.chmod(compiler.PRIVATE)
    assert compile_again() == 42
    (record,) = caplog.records
    assert "damaged" in record.getMessage() and path.read_bytes()[: len(data) - 32] == data[:-32]


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_what_other_users_may_write_is_not_loaded(folder, mode):
    compile_again()
    (path,) = folder.iterdir()
    path.chmod(mode)
    with pytest.raises(PhysicsError, match=f"{path}: other users may write it .*{compiler.CACHE}"):
        compile_again()
    path.chmod(compiler.PRIVATE)
    folder.chmod(mode)
    compiler.get_cache_folder.cache_clear()
    with pytest.raises(PhysicsError, match=f"{folder}: other users may write it"):
        compile_again()


def test_what_belongs_to_another_user_is_not_loaded(folder, monkeypatch):
    compile_again()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PhysicsError, match="belongs to user .* loaded from user 12345 alone"):
        compile_again()


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(folder, monkeypatch, caplog):
    (folder.parent / "file").write_text("")
    monkeypatch.setenv(compiler.CACHE, str(folder.parent / "file" / "cache"))
    assert compile_again() == 42
    (record,) = caplog.records
    assert compiler.CACHE in record.getMessage()


def test_a_text_that_does_not_compile_leaves_the_first_error_and_no_file(folder):
    with pytest.raises(CompileError, match="failed: .*error") as refusal:
        compiler.compile_library("int broken(", "a test")
    assert "\n" not in str(refusal.value) and not list(folder.iterdir())


def test_a_text_that_fails_once_is_not_compiled_without_openmp(folder, monkeypatch):
    assert compiler.get_compiler_identity() and compiler.get_openmp_flags()
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_run", lambda *_: subprocess.CompletedProcess([], 1, "", "error: killed"))
        with pytest.raises(CompileError, match="failed: error: killed"):
            compiler.compile_library(TEXT, "a test")
    assert not list(folder.iterdir())
    assert compile_again() == 42


def test_a_compiler_that_has_openmp_has_other_files_than_without_it(folder, monkeypatch):
    compile_again()
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "get_openmp_flags", tuple)
        compile_again()
    assert len(list(folder.iterdir())) == 2


def test_a_compiler_that_does_not_exist_or_does_not_come_back_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match="'no-such-compiler', does not exist"):
        compiler.compile_library(TEXT, "a test")
    forget()
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'import time; time.sleep(60)'")
    monkeypatch.setattr(compiler, "_run", lambda line, text="", limit=0.2: RUN(line, text, 0.2))
    with pytest.raises(CompileError, match="did not finish within 0.2 s"):
        compiler.compile_library(TEXT, "a test")


RUN = compiler._run


def test_processes_that_compile_the_same_text_at_once_do_not_disturb_each_other(folder):
    code = f"from isaaclab_mujoco.compiler import compile_library as c; assert c({TEXT!r}, 'a test').answer() == 42"
    path = os.pathsep.join(
        [str(os.path.dirname(os.path.dirname(compiler.__file__))), os.environ.get("PYTHONPATH", "")]
    )
    line = [sys.executable, "-c", code]
    started = [subprocess.Popen(line, env={**os.environ, "PYTHONPATH": path}) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(list(folder.iterdir())) == 1


def test_importing_the_package_its_names_and_its_entry_point_imports_nothing_heavy():
    code = "import sys, isaaclab_mujoco.selection, isaaclab_mujoco.tasks; print(*sys.modules)"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "warp", "mujoco", "isaaclab", "gymnasium"} & set(re.split(r"\s", done.stdout))
