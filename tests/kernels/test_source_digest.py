"""The digest of the kernels' sources changes with what is compiled, and with nothing else."""

import re
from pathlib import Path

import pytest

from spiky_rl.kernels import source_digest
from spiky_rl.kernels.source_digest import compute_digest, strip_comments
from spiky_rl.neurons.lif import Lif


@pytest.fixture
def headers(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(source_digest, "FOLDER", tmp_path)
    (tmp_path / "loops.h").write_text("int a;  // a number\n")
    (tmp_path / "bits_gpu.h").write_text("int b;\n")
    return tmp_path


def test_comments_and_white_space_do_not_count_and_a_text_in_quotes_does():
    text = 'int a;  // a number\n\n/* two\nlines */ int  b;\nputs("//  no comment"); // "one"\n#define X \\\n  1\n'
    assert strip_comments(text) == 'int a;\nint b;\nputs("// no comment");\n#define X \\\n1'


@pytest.mark.parametrize(
    ("file", "text", "on_gpu", "is_same"),
    [
        ("loops.h", "int a;\n", False, True),
        ("loops.h", "/* the */ int a;\n\n", True, True),
        ("loops.h", "long a;\n", False, False),
        ("more.h", "int c;\n", False, False),
        ("more.cpp", "int c;\n", False, False),
        ("bits_gpu.h", "long b;\n", False, True),
        ("bits_gpu.h", "long b;\n", True, False),
        ("loops.py", "a = 1\n", True, True),
    ],
)
def test_a_file_counts_for_the_device_that_compiles_it(headers, file, text, on_gpu, is_same):
    before = compute_digest(on_gpu)
    assert re.fullmatch("[0-9a-f]{16}", before)
    (headers / file).write_text(text)
    assert (compute_digest(on_gpu) == before) is is_same


def test_programs_of_neurons_flags_and_other_sources_count(headers, monkeypatch):
    before = compute_digest(False)
    assert compute_digest(False, [headers / "loops.h"]) != before
    with monkeypatch.context() as patch:
        patch.setattr(source_digest.compiler, "FLAGS", ("-O0",))
        assert compute_digest(False) != before
    source_digest.emit_programs.cache_clear()
    step = Lif.step
    monkeypatch.setattr(Lif, "step", lambda self, ops, i, s, p: step(self, ops, i + i, s, p))
    assert compute_digest(False) != before
    monkeypatch.undo()
    source_digest.emit_programs.cache_clear()


def test_every_built_in_neuron_is_in_it():
    text = "\n".join(source_digest.emit_programs())
    assert text.count("INLINE void step(") > 50 and "UNIFORM_PARAMETERS" in text
