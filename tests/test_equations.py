"""Equations that people type in docstrings are set as mathematics, and what is no mathematics stays words."""

import importlib.util
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from spiky_rl.config import registry

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("equations", ROOT / "docs" / "equations.py")
equations = importlib.util.module_from_spec(specification)
specification.loader.exec_module(equations)


def plain(text, *names):
    """What a reader sees of a block, without its elements."""
    return re.sub(r"<.*?>", "", equations.block(text, names))


@pytest.mark.parametrize(
    ("typed", "element"),
    [
        ("tau dV/dt = -V", '<mfrac><mrow><mi mathvariant="normal">d</mi><mi>V</mi></mrow><mrow>'),
        ("y = W s_(k-1)", "<msub><mi>s</mi><mrow><mi>k</mi>"),
        ("y = m^3 h", "<msup><mi>m</mi><mrow><mn>3</mn></mrow></msup>"),
        ("y = sum_j w_ji", '<munder><mo largeop="true"'),
        ("y = sqrt(x)", "<msqrt><mi>x</mi></msqrt>"),
        ("y = (a + b) / (c - d)", "<mfrac><mrow><mi>a</mi>"),
        ("v <- omega u", "<mi>ω</mi>"),
        ("w = A+ x", "<msup><mi>A</mi><mo>+</mo></msup>"),
    ],
)
def test_what_is_typed_becomes_mathematics(typed, element):
    assert element in equations.block(typed)


def test_words_stay_words_and_options_are_symbols():
    shown = equations.block("V >= threshold:  emit a spike", ["threshold"])
    assert "<mi>threshold</mi>" in shown and "emit a spike" in shown
    assert "<mi>threshold</mi>" not in equations.block("V >= threshold")


def test_signs_of_html_in_an_equation_are_shown_and_not_obeyed():
    assert "&lt;" in plain("x < y") and "<script" not in equations.block("<script>alert(1)</script> = x")


@pytest.mark.parametrize("kind", registry.COMPONENT_KINDS)
def test_the_blocks_of_every_entry_are_well_formed_and_lose_no_name(kind):
    for name in registry.list_names(kind):
        text = (
            (registry.PACKAGE / registry.COMPONENT_KINDS[kind] / f"{name}.py")
            .read_text(encoding="utf-8")
            .split('"""')[1]
        )
        for block in re.findall(r"(?m)(?:^    .*\n?)+", text):
            xml.fromstring(equations.block(block))
            for word in re.findall(r"[A-Za-z]{3,}", block.replace("``", "")):
                assert word in equations.GREEK or word in ("sum", "sqrt") or word in plain(block), (
                    name,
                    word,
                )
