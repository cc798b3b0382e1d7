"""The compiler and its cache, each in processes of their own: what fails says why, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiky_rl.kernels import compiler

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 4
TEXT = 'extern "C" int answer() { return 42; }'
LIBRARY = """
import logging, sys
from spiky_rl.kernels import compiler
logging.basicConfig(format="log %(levelname)s %(message)s")
try:
    print(compiler.compile_library(sys.argv[1], "a test").answer())
except compiler.CompileError as error:
    print("refused:", error)
"""
HASTY = LIBRARY.replace("try:", "compiler.TIMEOUT = compiler.VERSION_TIMEOUT = 1.0\ntry:", 1)
NETWORK = """
import logging
import torch
from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
logging.basicConfig(format="log %(levelname)s %(message)s", level=logging.INFO)
torch.set_num_threads(1)
def run(backend):
    try:
        settings = {"name": "feedforward", "layers": [3, 2], "backend": backend}
        network = registry.configure("networks", settings, "agent.network").build(inputs=2, outputs=1)
        for _ in range(2):
            network(torch.ones(1, 4, 2), None)[0].sum().backward()
        print(backend, "ran", sum(dispatch.get_backend("cpu").launches.values()))
    except registry.UserError as error:
        print(backend, "refused:", error)
run("auto")
run("cpu")
"""
GRADIENTS = """
import logging
import torch
logging.basicConfig(format="log %(levelname)s %(message)s")
from spiky_rl.config import registry
settings = {"name": "feedforward", "layers": [20, 17], "recurrent": [None, "recurrent"], "backend": "cpu"}
network = registry.configure("networks", settings, "agent.network").build(inputs=2, outputs=1)
def gradients(threads):
    torch.set_num_threads(threads)
    network.zero_grad()
    network(torch.linspace(0, 5, 80).view(1, 40, 2), None)[0].sum().backward()
    return [p.grad.clone() for p in network.parameters()]
print(all(one.any() and torch.equal(one, two) for one, two in zip(gradients(1), gradients(2))))
"""
SHELL = """#!/bin/sh
for word; do [ "$word" = --version ] && { echo "fake 1.0"; exit 0; }; done
"""
FAKES = {
    "fails": (
        'cat >/dev/null; echo "first words" >&2; echo "error: 13 is no lucky number" >&2; echo "^~~" >&2; exit 1',
        "did not accept a kernel: error: 13 is no lucky number; set CXX to another",
    ),
    "fails in silence": (
        "cat >/dev/null; exit 3",
        "did not accept a kernel: exit code 3; set CXX to another",
    ),
    "fails without reading": ("exit 4", "did not accept a kernel: exit code 4; set CXX to another"),
    "writes garbage": (
        'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo garbage > "$2"; shift; done',
        "does not load",
    ),
    "writes nothing": ("cat >/dev/null", "does not load"),
    "hangs": ("sleep 987", "did not finish within 1 s; set CXX to another"),
}

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason=compiler.get_missing_message())


def environment(cache, **changed):
    """This process's, with a cache of its own; None removes a variable."""
    names = {**os.environ, "PYTHONPATH": str(ROOT), "SPIKY_RL_CACHE": str(cache), **changed}
    return {name: str(value) for name, value in names.items() if value is not None}


def python(cache, code, *arguments, **changed):
    """What a process prints, and the lines of its log."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(cache, **changed),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), [line for line in result.stderr.splitlines() if line.startswith("log ")]


def script(path, text):
    """An executable file."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def counting(path):
    """The compiler, writing a line per compilation beside itself."""
    real = " ".join(compiler.find_compiler() or ())
    return script(path, f'{SHELL}echo "$*" >> {path}.calls\nexec {real} "$@"\n')


def calls(path):
    """How many texts it compiled, besides that which asks for OpenMP."""
    file = Path(f"{path}.calls")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return sum(".openmp-" not in line for line in lines)


def entries(cache):
    """All files of a cache."""
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with one entry, to be copied: that of `TEXT`."""
    cache = tmp_path_factory.mktemp("filled")
    assert python(cache, LIBRARY, TEXT) == ("42", [])
    return cache


@pytest.fixture
def entry(filled, tmp_path):
    """The entry of `TEXT` in a cache of the test's own, which is ``tmp_path``."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    (found,) = entries(tmp_path)
    return found


# Without a compiler, and with one that does not work

ABSENT = {
    "CXX names nothing": (
        {"CXX": "no-such-compiler -O2"},
        "the compiler that CXX names, 'no-such-compiler -O2', does not exist; unset CXX or correct it",
    ),
    "CXX is no command": ({"CXX": "g++ 'open"}, "does not exist; unset CXX or correct it"),
    "no compiler": (
        {"CXX": None, "PATH": "/nowhere"},
        "no C++ compiler found; install g++ (apt install g++) or clang, or set CXX",
    ),
    "CXX is empty": ({"CXX": " ", "PATH": "/nowhere"}, "no C++ compiler found; install g++"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_where_there_is_no_compiler_the_remedy_is_said(case, tmp_path):
    changed, message = ABSENT[case]
    printed, log = python(tmp_path, LIBRARY, TEXT, **changed)
    assert printed.startswith("refused: ") and message in printed
    assert log == [] and entries(tmp_path) == []


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case in ("fails in silence", "fails without reading")))
        for case in FAKES
    ],
)
def test_a_compiler_that_does_not_work_is_quoted_and_leaves_nothing(case, tmp_path):
    text, message = FAKES[case]
    fake = script(tmp_path / "cxx", f"{SHELL}{text}\n")
    printed, log = python(tmp_path / "cache", HASTY if case == "hangs" else LIBRARY, TEXT, CXX=fake)
    assert printed.startswith("refused: ") and message in printed and str(fake) in printed
    assert len(printed.splitlines()) == 1
    assert log == [] and entries(tmp_path / "cache") == []


@pytest.mark.slow
def test_what_a_hanging_compiler_started_ends_with_it(tmp_path):
    fake = script(tmp_path / "cxx", f"{SHELL}sleep 987 &\necho $! > {tmp_path}/child\nwait\n")
    python(tmp_path / "cache", HASTY, TEXT, CXX=fake)
    child = Path("/proc") / (tmp_path / "child").read_text(encoding="utf-8").strip()
    deadline = time.monotonic() + 10
    while child.exists() and "(sleep) Z" not in (child / "stat").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("#!/bin/sh\nsleep 987\n", "did not finish within 1 s", marks=pytest.mark.slow),
        ("\x7fELF no program", "does not start: "),
    ],
    ids=["hangs", "does not start"],
)
def test_a_compiler_that_does_not_even_tell_its_version_is_refused(text, message, tmp_path):
    fake = script(tmp_path / "cxx", text)
    printed, _ = python(tmp_path / "cache", HASTY, TEXT, CXX=fake)
    assert printed.startswith(f"refused: the compiler {str(fake)!r} {message}")


@pytest.mark.parametrize("case", ["absent", pytest.param("broken", marks=pytest.mark.slow)])
def test_auto_runs_on_torch_with_one_line_of_log_and_a_named_cpu_backend_is_refused(case, tmp_path):
    fake = script(tmp_path / "cxx", f"{SHELL}{FAKES['fails'][0]}\n")
    chosen = fake if case == "broken" else "no-such-compiler"
    reason = "no lucky number" if case == "broken" else "does not exist; unset CXX or correct it"
    printed, log = python(tmp_path / "cache", NETWORK, CXX=chosen)
    auto, cpu = printed.split("\n", 1)
    assert auto == "auto ran 0", "no kernel was launched"
    assert cpu.startswith("cpu refused: agent.network.backend: backend 'cpu' is not available: the compiler")
    assert reason in cpu
    (line,) = [line for line in log if "torch backend" in line]
    assert line.startswith("log WARNING neurons on cpu run on the torch backend, which is slow: the compiler")
    assert entries(tmp_path / "cache") == []


@pytest.mark.slow
def test_a_neuron_that_alone_is_not_accepted_is_named_with_the_remedy(tmp_path):
    real = " ".join(compiler.find_compiler() or ())
    body = 'text=$(cat)\ncase "$text" in *spiky_forward*) echo "no memory" >&2; exit 1;; esac\n'
    fake = script(tmp_path / "cxx", f'{SHELL}{body}printf "%s\\n" "$text" | {real} "$@" -O0\n')
    printed, _ = python(tmp_path / "cache", NETWORK, CXX=fake)
    for backend in ("auto", "cpu"):
        assert (
            f"{backend} refused: neuron 'Lif' cannot be compiled: the compiler {str(fake)!r} did not accept"
            in printed
        )
    assert printed.count("a kernel: no memory; set CXX to another; backend: torch runs it") == 2
    assert len(entries(tmp_path / "cache")) == 1, "the core alone"


@pytest.mark.slow
def test_a_compiler_without_openmp_is_used_without_it(tmp_path):
    real = " ".join(compiler.find_compiler() or ())
    body = 'for word; do [ "$word" = -fopenmp ] && { echo "no OpenMP" >&2; exit 1; }; done\n'
    fake = script(tmp_path / "cxx", f'{SHELL}{body}exec {real} "$@" -O0\n')
    assert python(tmp_path / "cache", LIBRARY, TEXT, CXX=fake) == ("42", [])
    printed, log = python(tmp_path / "cache", GRADIENTS, CXX=fake)
    assert printed == "True", "the gradients of one thread, also where torch has two"
    assert log == ["log WARNING kernels run on one thread, because the C++ compiler has no OpenMP"]


def test_a_text_that_fails_once_is_not_compiled_without_openmp(tmp_path):
    real, text = " ".join(compiler.find_compiler() or ()), f"#ifdef _OPENMP\n{TEXT}\n#endif"
    body = f'case "$*" in *.openmp-*) ;; *) [ -e {tmp_path}/failed ] || {{ touch {tmp_path}/failed; exit 1; }};; esac\n'
    fake = script(tmp_path / "cxx", f'{SHELL}{body}exec {real} "$@"\n')
    printed, _ = python(tmp_path / "cache", LIBRARY, text, CXX=fake)
    assert "did not accept a kernel" in printed and entries(tmp_path / "cache") == []
    assert python(tmp_path / "cache", LIBRARY, text, CXX=fake) == ("42", [])


def test_the_error_in_a_text_is_named(tmp_path):
    printed, _ = python(tmp_path, LIBRARY, 'extern "C" int answer() { return fortytwo; }')
    assert "did not accept a kernel: " in printed and "fortytwo" in printed


# The cache


def test_a_second_process_takes_the_entry_of_the_first(tmp_path):
    cxx, cache = counting(tmp_path / "cxx"), tmp_path / "cache"
    assert python(cache, LIBRARY, TEXT, CXX=cxx) == ("42", [])
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    assert python(cache, LIBRARY, TEXT, CXX=cxx) == ("42", [])
    assert calls(cxx) == 1 and entry.stat().st_mtime_ns == written
    assert entries(cache) == [entry]


def test_another_text_flag_or_compiler_is_another_entry(tmp_path):
    cache, cxx, other = tmp_path / "cache", counting(tmp_path / "cxx"), counting(tmp_path / "other")
    flagged = LIBRARY.replace("try:", 'compiler.FLAGS = (*compiler.FLAGS, "-DANSWER")\ntry:')
    for count, (code, text, chosen) in enumerate(
        [
            (LIBRARY, TEXT, cxx),
            (LIBRARY, TEXT.replace("42", "43"), cxx),
            (flagged, TEXT, cxx),
            (LIBRARY, TEXT, f"{cxx} -g"),
            (LIBRARY, TEXT, other),
        ],
        start=1,
    ):
        assert python(cache, code, text, CXX=chosen) == ("43" if "43" in text else "42", [])
        assert len(entries(cache)) == count
    assert (calls(cxx), calls(other)) == (4, 1)


DAMAGES = {
    "text": lambda data: b"garbage",
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "its end": lambda data: data[:-1],
    "a hole": lambda data: data[:4096] + bytes(4096) + data[8192:],
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in ("half", "a hole"))) for case in DAMAGES]
)
def test_a_damaged_entry_is_compiled_again(case, entry, tmp_path):
    whole = entry.read_bytes()
    damaged = DAMAGES[case](whole)
    assert damaged != whole
    entry.write_bytes(damaged)
    printed, log = python(tmp_path, LIBRARY, TEXT)
    assert printed == "42"
    (line,) = log
    assert line.startswith(f"log WARNING {entry} is damaged and compiled again")
    assert python(tmp_path, LIBRARY, TEXT) == ("42", []) and entries(tmp_path) == [entry]


@pytest.mark.parametrize(
    "cache",
    ["file/below", *(pytest.param(name, marks=pytest.mark.slow) for name in ("/proc/nowhere", "/dev/null"))],
)
def test_where_the_cache_cannot_be_written_a_temporary_folder_serves_with_one_warning(cache, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    twice = LIBRARY + "print(compiler.compile_library(sys.argv[1] + ' ', 'a test').answer())\n"
    printed, log = python(tmp_path / cache, twice, TEXT, TMPDIR=temporary)
    assert printed == "42\n42"
    (line,) = log
    assert line.startswith("log WARNING kernels are compiled anew in every process") and cache in line
    assert "set SPIKY_RL_CACHE to a" in line
    assert list(temporary.iterdir()) == [], "it goes with the process"


@pytest.mark.slow
def test_processes_that_compile_the_same_text_at_once_leave_one_entry(tmp_path):
    cache, cxx = tmp_path / "cache", counting(tmp_path / "cxx")
    # all of them have looked before the first has written
    slow = script(tmp_path / "slow", f'{SHELL}sleep 1\nexec {cxx} "$@"\n')
    command = [sys.executable, "-c", LIBRARY, TEXT]
    running = [
        subprocess.Popen(
            command,
            env=environment(cache, CXX=slow),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    assert [process.communicate(timeout=800)[0] for process in running] == ["42\n"] * PROCESSES
    assert calls(cxx) > 1, "they met"
    assert len(entries(cache)) == 1 and entries(cache)[0].suffix == ".so"


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from spiky_rl.kernels import compiler
with ThreadPoolExecutor(4) as pool:
    print([library.answer() for library in pool.map(compiler.compile_library, [sys.argv[1]] * 4, ['a test'] * 4)])
"""


def test_threads_that_compile_the_same_text_at_once_leave_one_entry(tmp_path):
    assert python(tmp_path, THREADS, TEXT) == ("[42, 42, 42, 42]", [])
    assert len(entries(tmp_path)) == 1


def test_the_cache_is_spiky_rls_own_folder_in_the_users_cache(tmp_path):
    python(None, LIBRARY, TEXT, SPIKY_RL_CACHE=None, XDG_CACHE_HOME=tmp_path)
    (entry,) = entries(tmp_path)
    assert entry.parent == tmp_path / "spiky_rl" / "kernels"
