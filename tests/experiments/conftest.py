"""Fixtures of the tests of studies."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> Iterator[None]:
    """statsmodels collects garbage in every correction, which takes as long as there are objects in the process."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read a report's text: drawing its figures takes most of its time."""
    monkeypatch.setattr("spiky_rl.experiments.report.drawing.render_svg", lambda *_: None)
