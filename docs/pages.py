"""Builds the documentation into ``site/``: the README first, the guides, and the API pages from the docstrings.

python docs/pages.py [FOLDER]
"""

import os
import re
import shutil
import sys
import types
from pathlib import Path

from pdoc import doc, extract, render

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "index": ROOT / "README.md",
    **{f"docs.{p.stem}": p for p in sorted((ROOT / "docs").glob("*.md"))},
}
"""Module names that pdoc files the pages under, and their texts."""
LEFT_OUT = r"!spiky_rl\.hosts\.isaaclab\.live\.\w+_view"
"""Modules that need the extra `live`, which is not everywhere."""
BESIDE = ("docs/*.png", "docs/*.gif", "examples/*", "studies/*/report.html", "studies/*/figures/*")
"""What pages show or lead to."""


def page(name: str, path: Path) -> doc.Module:
    """A text as pdoc takes one: the docstring of a module. Links to texts and to our modules become links to their pages."""
    module = types.ModuleType(name)
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(\]\([^):\s]+)\.md(#[^)]*)?\)", r"\1.html\2)", text)
    text = re.sub(r"(\]\([^):\s]*spiky_rl/[^)\s]+)\.py\)", r"\1.html)", text)
    module.__doc__ = f"{contents('../' * name.count('.'))}\n\n{text}"
    return doc.Module(module)


def contents(top: str) -> str:
    """Links to all texts and to the API; ``top``: the way to the site's first page."""
    pages = {"README": "index", **{n.partition(".")[2]: n for n in PAGES if "." in n}, "API": "spiky_rl"}
    return " · ".join(f"[{word}]({top}{name.replace('.', '/')}.html)" for word, name in pages.items())


def build(folder: Path) -> None:
    """Write all pages, and what they show, into ``folder``."""
    # else MuJoCo's import asks for windows in a subprocess, which pdoc does not let a module start
    os.environ.setdefault("MUJOCO_GL", "disable")
    render.configure(docformat="markdown", math=True)
    modules = {name: page(name, path) for name, path in PAGES.items()}
    modules |= {name: doc.Module.from_name(name) for name in extract.walk_specs(["spiky_rl", LEFT_OUT])}
    for module in modules.values():
        out = folder / f"{module.fullname.replace('.', '/')}.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render.html_module(module, modules), encoding="utf-8")
    (folder / "search.js").write_text(render.search_index(modules), encoding="utf-8")
    for path in (path for pattern in BESIDE for path in ROOT.glob(pattern) if path.is_file()):
        copied = folder / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
