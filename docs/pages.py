"""Builder of the site: guides, catalogue and API pages, with every internal link checked.

python docs/pages.py [--without-api] [FOLDER]

Guides are the Markdown files of this folder and the guide of isaaclab_mujoco/; docs/catalogue.py writes the catalogue from the registry.
Zensical makes pages of both, and pdoc makes the API's. No page loads anything from another host.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from urllib.parse import unquote

import catalogue
from pdoc import doc, extract, render

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NATIVE = "isaaclab_mujoco/docs/guide.md"
"""The guide of the package for native physics; its page is `isaaclab_mujoco.md`."""
EXCLUDED_MODULES = r"!spiky_rl\.(hosts\.(isaaclab\.live\.\w+_view|mjlab\.(configs|environment|runner))|learners\.skrl\.wandb_writer)"
"""Specification for pdoc of the modules without a page, because they need one of the extras `live`, `mjlab` and `wandb`."""
IGNORED_WARNINGS = (
    r"Couldn't import spiky_rl\.hosts\.isaaclab\.live",  # a module of `EXCLUDED_MODULES` that its package lists
    r"(?s).*spiky_rl\.hosts\.mjlab\.",  # annotations of mjlab, which is not installed beside Isaac Lab
    r"(?s).*Go1FlatEnvCfg\.__init__",  # Isaac Lab's annotations
    r"(?s).*NativeSolver\.collision_frequency",  # Newton's
    r"Cannot determine where spiky_rl\.experiments\.run\.results\.",  # fields of a model without a docstring
    r"Suppressed execution of \['uname'",  # a package runs it when it is imported
)
"""Starts of pdoc's warnings about names that it cannot find here."""
COPIED = (
    "examples/*",
    "examples/exact/*",
    "studies/*/*.yaml",
    "studies/*/report.html",
    "studies/*/tuning/report.html",
    "studies/*/tuning/figures/*",
    "studies/*/figures/*",
)
"""Files outside docs/ that pages link to or show."""
DRAWING = re.compile(r"!\[[^\]]*\]\([^)]*(?:\.svg|bench\.png|adjoint\.png)\)")
"""A picture with a white background, whose colours the style sheet inverts on a dark page."""
COMMANDS = re.compile(
    r"^```\n((?:spiky|torchrun|pip|python|isaaclab|make|ssh|ray|uv|source) .*?)^```$",
    re.MULTILINE | re.DOTALL,
)
"""A block of shell commands, whose long lines may wrap."""
BUNDLE = re.compile(r'<script src="(?P<where>[^"]*)bundle\.\w+\.min\.js"></script>')
"""The theme's script in a page."""
OFFLINE = """if (location.protocol === "file:") {{
  const text = {}, NativeWorker = window.Worker;
  window.Worker = class extends NativeWorker {{
    constructor() {{ super(URL.createObjectURL(new Blob([text], {{ type: "text/javascript" }}))); }}
  }};
}}
"""
"""Script that runs before the theme's and starts the search's worker from its text."""
INCLUDED = re.compile(r"^<!-- file (?P<path>\S+) -->$", re.MULTILINE)
"""A mark in a guide at which the page shows a file of the project."""


def main(arguments: list[str]) -> int:
    """Build the site and print every broken link; return 1 if there is one."""
    parser = argparse.ArgumentParser(description="Builds the site.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    parser.add_argument(
        "--without-api", action="store_true", help="leave out the API's pages, which take longest"
    )
    args = parser.parse_args(arguments)
    build(args.folder, not args.without_api)
    broken = list(find_broken_links(args.folder, args.without_api))
    for line in broken:
        print(line)
    return int(bool(broken))


def build(folder: Path, api: bool = True) -> None:
    """Write the site into ``folder``, whose earlier content is deleted."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_source(work / "source", work / "zensical.toml")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        plain = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run(command, cwd=work, env=plain, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"zensical: {done.stdout}{done.stderr}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "site", folder)
    add_offline_search(folder)
    for path in (path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file()):
        copied = folder / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    if api:
        build_api(folder / "api")


def add_offline_search(folder: Path) -> None:
    """Make the search work in pages opened from a folder, whose scripts can neither fetch a file nor start a worker from one.

    The theme then takes its index from search.js, and offline.js holds the worker's text.
    """
    index = (folder / "search.json").read_text(encoding="utf-8")
    (folder / "search.js").write_text(f"var __index = {index}", encoding="utf-8")
    scripts = folder / "assets" / "javascripts"
    (worker,) = (scripts / "workers").glob("search.*.js")
    text = OFFLINE.format(json.dumps(worker.read_text(encoding="utf-8")))
    (scripts / "offline.js").write_text(text, encoding="utf-8")
    for page in folder.rglob("*.html"):
        html_text = page.read_text(encoding="utf-8")
        changed, count = BUNDLE.subn(r'<script src="\g<where>offline.js"></script>\g<0>', html_text)
        if count != 1:
            raise SystemExit(f"{page}: {count} scripts of the theme, not one")
        page.write_text(changed, encoding="utf-8")


def write_source(source: Path, configuration: Path) -> None:
    """Write the files that Zensical builds from: converted guides, pictures and the catalogue, and its configuration."""
    source.mkdir(parents=True)
    for path in sorted(DOCS.iterdir()):
        if path.suffix == ".md":
            (source / path.name).write_text(convert_guide(path.read_text(encoding="utf-8")), encoding="utf-8")
        elif path.suffix in (".png", ".gif", ".svg", ".css"):
            shutil.copyfile(path, source / path.name)
    native = (ROOT / NATIVE).read_text(encoding="utf-8")
    (source / "isaaclab_mujoco.md").write_text(convert_guide(native), encoding="utf-8")
    pages = catalogue.write(source / "catalogue")
    entries = ",\n".join(f'{{ "{title}" = "catalogue/{file}" }}' for title, file in pages)
    text = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    place = '{ "Catalogue" = "catalogue/index.md" }'
    if place not in text:
        raise SystemExit(f"docs/zensical.toml: the navigation lacks {place}")
    configuration.write_text(text.replace(place, f'{{ "Catalogue" = [{entries}] }}'), encoding="utf-8")


def convert_guide(text: str) -> str:
    """Return the text of a guide for the site: with the files that it shows, and with links out of docs/ changed to the site's pages."""
    text = INCLUDED.sub(
        lambda found: f"```python\n{(ROOT / found['path']).read_text(encoding='utf-8')}```", text
    )
    text = re.sub(r"<!-- .*? -->", "", text)  # results.py's marks, which would end a paragraph
    text = COMMANDS.sub(lambda found: "```sh\n" + re.sub(r" {3,}#", "  #", found[1]) + "```", text)
    text = DRAWING.sub(lambda found: f"{found[0]}{{ .drawing }}", text)
    text = re.sub(r"\]\(\.\./spiky_rl/([^)#]+)\.py\)", r"](api/spiky_rl/\1.html)", text)
    text = text.replace(f"](../{NATIVE}", "](isaaclab_mujoco.md")
    text = re.sub(r"(\]\(|href=\")\.\./(studies/[^)\"]+)/report\.md", r"\1\2/report.html", text)
    return re.sub(r"(\]\(|href=\")\.\./(examples|studies)/", r"\1\2/", text)


def build_api(folder: Path) -> None:
    """Write the API's pages from the docstrings."""
    # otherwise MuJoCo looks for a window system in a subprocess, which pdoc does not let a module start
    os.environ.setdefault("MUJOCO_GL", "disable")
    for unknown in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", unknown)
    render.configure(docformat="markdown", template_directory=DOCS / "api_theme", favicon="data:,")
    modules = {
        name: doc.Module.from_name(name)
        for name in extract.walk_specs(["spiky_rl", "isaaclab_mujoco", EXCLUDED_MODULES])
    }
    for module in modules.values():
        load_lazy_names(module.obj)
        resolve_local_names(module.obj)
    for module in modules.values():
        out = folder / f"{module.fullname.replace('.', '/')}.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_api(out, render.html_module(module, modules))
    write_api(folder / "index.html", render.html_index(modules))
    write_api(folder / "search.js", render.search_index(modules))


def write_api(path: Path, text: str) -> None:
    """Write a file of the API; paths in it become relative to the project's folder."""
    path.write_text(text.replace(f"{ROOT}/", ""), encoding="utf-8")


def load_lazy_names(module: ModuleType) -> None:
    """Load the names of ``__all__`` that a module imports at first use, because pdoc sees only a module's attributes."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


def resolve_local_names(module: ModuleType) -> None:
    """Evaluate annotations of type parameters and nested classes, because pdoc looks names up only in the module."""
    for name, member in list(vars(module).items()):
        if getattr(member, "__module__", None) != module.__name__:
            continue
        if isinstance(member, type):
            if issubclass(member, tuple) and isinstance(member.__new__, FunctionType):
                # its constructor is not in its module
                member.__new__.__annotations__.update(typing.get_type_hints(member))
            nested = {key: value for key, value in vars(member).items() if isinstance(value, type)}
            nested |= {each.__name__: each for each in member.__type_params__}
            for method in list(vars(member).values()):
                resolve_annotations(getattr(method, "__func__", method), nested)
        else:
            maker = getattr(module, getattr(member, "__qualname__", name).partition(".<locals>")[0], None)
            resolve_annotations(
                member, {each.__name__: each for each in getattr(maker, "__type_params__", ())}
            )


def resolve_annotations(function: object, names: Mapping[str, object]) -> None:
    """Evaluate the annotations of a function that use ``names`` or its type parameters; the others stay."""
    if not isinstance(function, FunctionType):
        return
    local = {**names, **{each.__name__: each for each in function.__type_params__}}
    for key, text in function.__annotations__.items():
        if isinstance(text, str) and local.keys() & set(re.findall(r"\w+", text)):
            # a name that only type checkers import: pdoc finds it, or warns
            with contextlib.suppress(NameError):
                function.__annotations__[key] = eval(text, inspect.unwrap(function).__globals__, local)


def read_attributes(page: Path, *names: str) -> set[str]:
    """Return the values of all attributes of these ``names`` in a ``page``, except in its scripts."""
    text = re.sub(r"<script\b.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(rf"\b(?:{'|'.join(names)})=\"([^\"]+)\"", text)
    return set(map(html.unescape, found))


def find_broken_links(folder: Path, without_api: bool = False) -> Iterator[str]:
    """Yield every internal link whose file, or place in the file, is missing, as ``page: link``.

    Places are not checked in links between API pages, because pdoc links to inherited members that it does not show.
    """
    folder = folder.resolve()
    places = {page: read_attributes(page, "id", "name") for page in sorted(folder.rglob("*.html"))}
    for page in places:
        if page.name == "404.html":  # its links start from the page that was not found
            continue
        for link in sorted(read_attributes(page, "href", "src")):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, place = link.partition("#")
            target = Path(os.path.normpath(page.parent / unquote(file.partition("?")[0]))) if file else page
            inside, own = folder / "api" in target.parents, folder / "api" in page.parents
            if without_api and inside:
                continue
            missing = (
                place and not (inside and own) and target in places and unquote(place) not in places[target]
            )
            if missing or not target.is_file():
                yield f"{page.relative_to(folder)}: {link}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
