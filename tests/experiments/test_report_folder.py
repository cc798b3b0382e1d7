"""A report leaves other files alone: a user's figures, and folders behind links."""

from pathlib import Path

import pytest

from spiky_rl.cli.report import report
from spiky_rl.config.options import UserError
from spiky_rl.experiments.report.blocks import Block, Section
from spiky_rl.experiments.report.pages import write_pages
from tests.cli.refusals import refused


def pages_in(folder: Path, *names: str) -> None:
    """Write pages with one figure for each of the ``names``."""
    blocks = [Block("figure", title=f"A {name}", name=name, svg="<svg/>", text="seen") for name in names]
    write_pages(folder, "title", "subtitle", [Section("figures", "Figures", blocks)], {}, "2026-11-25")


def test_only_figures_that_the_last_report_drew_are_deleted(tmp_path: Path):
    figures = tmp_path / "figures"
    pages_in(tmp_path, "old", "kept")
    (figures / "mine.svg").write_text("the user's", encoding="utf-8")
    pages_in(tmp_path, "kept", "new")
    assert sorted(path.name for path in figures.iterdir()) == ["kept.svg", "mine.svg", "new.svg"]
    (tmp_path / "report.md").write_text("![x](figures/../mine.svg)\n![y](figures/..)\n", encoding="utf-8")
    (tmp_path / "mine.svg").write_text("the user's", encoding="utf-8")
    pages_in(tmp_path, "kept")
    assert (tmp_path / "mine.svg").exists()


def test_a_heading_is_text_in_both_pages(tmp_path: Path):
    write_pages(tmp_path, "t", "s", [Section("a", "<b>bold</b>", [Block("text", "seen")])], {}, "2026-11-25")
    assert "## &lt;b>bold&lt;/b>" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<b>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("name", ["figures", "tensorboard"])
def test_what_is_no_folder_of_the_reports_own_is_refused_and_left_as_it_is(
    kind, name, tmp_path: Path, capsys
):
    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    (elsewhere / "cell").mkdir(parents=True)
    theirs = [elsewhere / "old.svg", elsewhere / "cell" / "events.out.tfevents.0.study"]
    for path in theirs:
        path.write_text("the user's", encoding="utf-8")
    study.mkdir()
    (study / "study.json").write_text("{}", encoding="utf-8")
    (study / "report.md").write_text("![x](figures/old.svg)\n", encoding="utf-8")
    if kind == "link":
        (study / name).symlink_to(elsewhere)
    else:
        (study / name).write_text("the user's", encoding="utf-8")
    said = refused(report, [study], capsys)
    assert str(study / name) in said
    assert all(path.exists() for path in theirs)
    if name == "figures":
        with pytest.raises(UserError, match="figures: is"):
            pages_in(study, "new")
