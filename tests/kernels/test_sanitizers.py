"""The C of all kernels under GCC's sanitizers, on several threads, and with memory that is refused.

The kernels' own text is compiled, with the compiler's own OpenMP; only the threads are started by `threads.cpp`, whose
ordering a thread sanitizer can see.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from spiky_rl.kernels import compiler, programs
from tests.kernels.cases import NEURONS, configured, distinct, vocabulary

HERE = Path(__file__).parent
HEADERS = (
    "lanes",
    "job",
    "events",
    "bfloat16",
    "recurrent",
    "layers",
    "stack",
    "convolution",
    "convolution_gradient",
)
SANITIZERS = {
    "thread": ("-fsanitize=thread",),
    "address and undefined behaviour": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "none": (),
}
WRAPPED = ("malloc", "calloc", "aligned_alloc", "free")
NEURON = """
struct Neuron {
  const char *name;
  void (*forward)(const Job *);
  int (*backward)(const Job *);
  int states, parameters, graded;
  const float *params, *uniforms;
};
"""
ANSWER = 42

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("g++") is None, reason="the sanitizers are tested with g++, which is missing"
    ),
]


def compiled(folder, name, text, flags):
    """An object file of a C++ text."""
    source, target = folder / f"{name}.cpp", folder / f"{name}.o"
    source.write_text(text, encoding="utf-8")
    own = [flag for flag in compiler.FLAGS if flag not in ("-shared", "-O3")]
    command = ["g++", *own, "-O1", "-g", "-fopenmp", *flags, "-c", source, "-o", target]
    subprocess.run(command, check=True, text=True)
    return target


def linked(folder, objects, flags):
    program = folder / "program"
    wrapped = [f"-Wl,--wrap={name}" for name in WRAPPED]
    subprocess.run(["g++", *flags, *wrapped, *objects, "-lpthread", "-o", program], check=True, text=True)
    return program


def run(program, *arguments):
    """What a program prints, and its exit code. A sanitizer's shadow memory needs addresses that are not random."""
    command = [program, *arguments]
    if shutil.which("setarch"):
        command = ["setarch", "-R", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def require(folder, flags):
    """Skip where the compiler lacks a sanitizer, or the machine does not let it run."""
    source = folder / "probe.cpp"
    source.write_text(f"int main() {{ return {ANSWER}; }}\n", encoding="utf-8")
    command = ["g++", *flags, source, "-o", folder / "probe"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"g++ has no {' '.join(flags)}: {found.stderr.strip().splitlines()[-1]}")
    found = run(folder / "probe")
    if found.returncode != ANSWER:
        pytest.skip(f"{' '.join(flags)} does not run here: {found.stderr.strip()[-200:]}")


def array(values):
    return ", ".join(f"{value!r}f" for value in values) or "0.0f"


def built(folder, sanitizer, changed=lambda text: text, neurons=tuple(NEURONS)):
    """The program that drives the kernels of all neurons; ``changed``: of their text."""
    flags = SANITIZERS[sanitizer]
    require(folder, flags)
    objects, table, declared = [], [], []
    for number, name in enumerate(neurons):
        neuron = configured(name, learned=True)
        call = programs.prepare_call(neuron, vocabulary(), distinct(neuron, 1)(), 1)
        ends = f"forward_{number}", f"backward_{number}"
        renamed = f"#define spiky_forward {ends[0]}\n#define spiky_backward {ends[1]}\n"
        text = changed(programs.build_source(programs.PROGRAMS[call.key]))
        objects.append(compiled(folder, f"neuron_{number}", renamed + text, flags))
        declared += [
            f'extern "C" void {ends[0]}(const Job *);\nextern "C" int {ends[1]}(const Job *);',
            f"static const float params_{number}[] = {{{array(call.params.flatten().tolist())}}};",
            f"static const float uniforms_{number}[] = {{{array(call.uniforms)}}};",
        ]
        counts = f"{len(neuron.states)}, {len(neuron.params)}, {int(neuron.graded)}"
        table.append(f'{{"{name}", {", ".join(ends)}, {counts}, params_{number}, uniforms_{number}}}')
    core = "\n".join(changed(programs.read_header(part)) for part in HEADERS)
    rows = f"static const Neuron NEURONS[] = {{{', '.join(table)}}};"
    driver = "\n".join([core, NEURON, *declared, rows, (HERE / "harness.cpp").read_text(encoding="utf-8")])
    objects += [
        compiled(folder, "driver", driver, flags),
        compiled(folder, "threads", (HERE / "threads.cpp").read_text(encoding="utf-8"), flags),
    ]
    return linked(folder, objects, flags)


@pytest.mark.parametrize("sanitizer", [name for name in SANITIZERS if name != "none"])
def test_a_sanitizer_has_nothing_to_say_about_any_kernel(sanitizer, tmp_path):
    found = run(built(tmp_path, sanitizer))
    assert (found.returncode, found.stderr) == (0, ""), found.stdout + found.stderr[-4000:]
    assert found.stdout.startswith(f"{len(NEURONS)} neurons")


def test_memory_that_is_refused_is_reported_and_what_was_taken_is_given_back(tmp_path):
    found = run(built(tmp_path, "none", neurons=("lif",)), "refuse")
    assert found.returncode == 0, f"{found.returncode}: {found.stdout}{found.stderr}"


FAULTS = {
    "a result that all threads write": (
        "thread",
        " reduction(| : failed)",
        "",
        "WARNING: ThreadSanitizer: data race",
    ),
    "a row beyond the end": (
        "address and undefined behaviour",
        "count = append(index, count, word, first);",
        "count = append(index, count, word, first), index[inputs + SLACK] = 0;",
        "heap-buffer-overflow",
    ),
    "a shift by more than there are bits": (
        "address and undefined behaviour",
        "word |= (Word)(x[i] != 0.0f) << i;",
        "word |= (Word)(x[i] != 0.0f) << (i + 64);",
        "shift exponent",
    ),
    "a copy that is kept when there is no memory for the next": (
        "none",
        "dispose(found, l + 1);",
        "free(found);",
        "stack forward keeps 1 pieces after refusal 2",
    ),
    "memory that is not asked for whether it came": (
        "none",
        "failed |= !index;",
        "",
        "linear does not report refusal 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_into_the_kernels_is_seen(fault, tmp_path):
    sanitizer, before, after, message = FAULTS[fault]
    assert any(before in programs.read_header(part) for part in HEADERS)
    program = built(tmp_path, sanitizer, lambda text: text.replace(before, after), ("lif",))
    found = run(program, *(["refuse"] if sanitizer == "none" else []))
    said = found.stdout + found.stderr
    assert found.returncode != 0 and message in said, said[-4000:]
