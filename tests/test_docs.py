"""The site: every entry is in the catalogue, no link leads nowhere, and pages open in a browser, wide and narrow."""

import base64
import functools
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spiky_rl.config import registry
from spiky_rl.run.policies import find_policy
from tests.cli import browser

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (1280, 390)
SCRIPT = """<!doctype html><body><script>
// every page in a frame of a screen's width: does it scroll sideways, is a picture missing, is another host asked?
const [pages, widths] = JSON.parse(atob(location.hash.slice(1)));
addEventListener("load", async () => {
  const faults = [];
  const look = async (page, width) => {
    const frame = document.createElement("iframe");
    frame.style = `border: 0; height: 900px; width: ${width}px`;
    frame.src = page;
    document.body.append(frame);
    await new Promise(done => frame.onload = done);
    await new Promise(done => setTimeout(done, 100));
    const inside = frame.contentWindow, root = frame.contentDocument.documentElement;
    if (root.scrollWidth > width) faults.push(`${page} at ${width}: ${root.scrollWidth} pixels wide`);
    for (const image of frame.contentDocument.images)
      if (image.complete && !image.naturalWidth) faults.push(`${page}: no picture ${image.src}`);
    for (const {name} of inside.performance.getEntriesByType("resource"))
      if (!name.startsWith(location.origin)) faults.push(`${page}: asks another host, ${name}`);
    frame.remove();
  };
  for (const page of pages) await Promise.all(widths.map(width => look(page, width)));
  await fetch("/faults", {method: "POST", body: JSON.stringify(faults)});
});
</script>"""


def needed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: the extra 'dev'")


def build(folder: Path, *options: str) -> Path:
    command = [sys.executable, "docs/pages.py", *options, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(name="site", scope="module")
def a_site(tmp_path_factory) -> Path:
    """Guides, gallery and catalogue; the build itself refuses links that lead nowhere."""
    needed("zensical")
    needed("pdoc")
    return build(tmp_path_factory.mktemp("site"), "--without-api")


def pages_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.html") if "studies" not in path.parts
    )


class Server(http.server.ThreadingHTTPServer):
    """Gives the site's files and the script, and takes what the script found."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.missing: list[str] = []
        self.faults: list[str] | None = None
        self.told = threading.Event()


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path.startswith("/script"):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(SCRIPT.encode())
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.faults = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.told.set()

    def send_error(self, code, message=None, explain=None) -> None:
        self.server.missing.append(f"{code} {self.path}")
        super().send_error(code, message, explain)

    def log_message(self, format, *args) -> None:  # pylint: disable=redefined-builtin
        pass


def browsed(folder: Path, pages: list[str], profile: Path) -> list[str]:
    """What a headless browser that reaches no other host finds wrong with pages, its console's messages included."""
    program = browser.installed()
    if program is None:
        pytest.skip(f"no browser: install one of {', '.join(browser.BROWSERS)}")
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    task = base64.b64encode(json.dumps([[f"/{page}" for page in pages], WIDTHS]).encode()).decode()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
    flags += ["--remote-debugging-port=0", "--window-size=1400,1000"]
    url = f"http://127.0.0.1:{server.server_port}/script#{task}"
    with open(profile.with_suffix(".log"), "w+", encoding="utf-8") as said:
        with subprocess.Popen([program, *flags, url], stderr=said, stdout=subprocess.DEVNULL) as process:
            try:
                assert server.told.wait(300), "the browser has not come to the last page"
            finally:
                process.terminate()
                server.shutdown()
        said.seek(0)
        console = [line.strip() for line in said if "CONSOLE" in line]
    return [
        *(server.faults or []),
        *(f"not there: {path}" for path in server.missing if "favicon" not in path),
        *console,
    ]


def test_the_readme_is_short_and_leads_to_files_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []


def test_the_guide_on_agents_lists_every_agent():
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    assert [name for name in registry.list_names("agents") if f"`{name}`" not in text] == []


SIGNATURES = """
import importlib, sys, warnings
sys.path.insert(0, "docs")
import pages
from pdoc import doc
warnings.simplefilter("error")
modules = [importlib.import_module(name) for name in sys.argv[1:]]
for module in modules:
    pages.load_lazy_names(module)
    pages.resolve_local_names(module)
found = {}
for module in map(doc.Module, modules):
    found |= {member.fullname: str(member.signature) for member in module.functions}
    for cls in module.classes:
        found |= {member.fullname: str(member.signature) for member in cls.own_members if isinstance(member, doc.Function)}
assert "-> ~N" in found["spiky_rl.cli.flags.positive_int"] or "-> N" in found["spiky_rl.cli.flags.positive_int"], found
assert "options" in found["spiky_rl.neurons.base.Neuron.__init__"]
assert modules[-1].__name__ == "spiky_rl.learners.rsl_rl" and "SpikingPPO" in doc.Module(modules[-1]).members
"""
"""Reads signatures of the modules in its arguments, as the pages of the API do; a warning is an error."""


def test_films_are_of_the_policies_that_ship():
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    films = re.findall(
        r"--task (\S+) --agent (\S+) --checkpoint pretrained[^`]*--video.*\n<!-- film of the policy (\w+) -->",
        text,
    )
    assert len(films) == len(re.findall("pretrained[^`]*--video", text)) >= 5
    for task, agent, digest in films:
        policy = find_policy(task, agent, "--checkpoint")
        assert policy.sha256.startswith(
            digest
        ), f"{policy.name}: record the film again, and name the new policy"


@pytest.mark.slow
def test_the_api_resolves_type_parameters_nested_classes_and_lazy_names():
    needed("pdoc")
    needed("zensical")
    needed("rsl_rl")
    names = ["config.options", "config.safe_loading", "cli.flags", "neurons.base", "learners.rsl_rl"]
    line = [sys.executable, "-c", SIGNATURES, *(f"spiky_rl.{name}" for name in names)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_first_page_leads_to_every_guide_and_every_entry_has_a_section(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "Spiking policies for" in first and 'src="ant.gif"' in first
    guides = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index", "api"}
    links = {f"{guide}.html" for guide in guides} | {"catalogue/index.html"}
    assert len(guides) > 12 and {link for link in links if f'href="{link}"' not in first} == set()
    for kind in (*registry.COMPONENT_KINDS, *registry.FILE_KINDS):
        page = (site / "catalogue" / f"{kind}.html").read_text(encoding="utf-8")
        assert [name for name in registry.list_names(kind) if f'id="{name}"' not in page] == [], kind


@pytest.mark.slow
def test_neurons_have_mathematics_pictures_and_options_with_units(site):
    page = (site / "catalogue" / "neurons.html").read_text(encoding="utf-8")
    for name in registry.list_names("neurons"):
        section = page.partition(f'id="{name}"')[2].partition("<h2")[0]
        text = (registry.PACKAGE / "neurons" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
        assert f"pictures/neurons_{name}.svg" in section, name
        assert ("<math" in section) == ("\n    " in text), name
    assert "<mfrac><mrow>" in page and "<code>2.0</code> ms" in page


@pytest.mark.slow
def test_the_quickstart_that_the_guide_shows_is_the_file_that_is_tested(site):
    shown = (site / "start.html").read_text(encoding="utf-8")
    assert "cross_entropy" in shown and "<!-- file" not in shown


@pytest.mark.slow
def test_pages_open_wide_and_narrow_without_an_error_a_missing_file_or_another_host(site, tmp_path):
    assert browsed(site, pages_of(site), tmp_path / "profile") == []


FIND = """(query => {
    const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
    const input = all(document).find(e => e.tagName == "INPUT" && e.type == "text");
    if (!input) { document.querySelector(".md-search__button").click(); return null; }
    if (input.value != query) { input.value = query; input.dispatchEvent(new Event("input", { bubbles: true })); return null; }
    const found = all(document).find(e => e.tagName == "A" && e.href.includes("?h="));
    return found && found.href.includes("?h=" + query.split(" ")[0]) ? found.href : null;
})(%s)"""
"""Opens the search, types a query and gives the first result."""


@pytest.mark.slow
def test_the_search_finds_pages_opened_from_a_folder(site, tmp_path):
    needed("websockets")
    if browser.installed() is None:
        pytest.skip("no Chromium is installed, which would open the page")
    wanted = {
        "wandb": "runs.html",
        "own robot": "robots.html#a-robot",
        "policy.c": "deploying.html",
        "multi gpu": "hosts.html",
    }
    with browser.opened((site / "index.html").as_uri(), tmp_path / "profile") as page:
        for query, target in wanted.items():
            first = page.wait_for(FIND % json.dumps(query), 120)
            assert target.partition("#")[0] in first and target.partition("#")[2] in first, first


@pytest.mark.slow
def test_faults_of_a_page_would_be_seen(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    wide = "<div style='width: 500px'>wide</div><img src='gone.png'><script src='https://example.org/far.js'></script>"
    (folder / "page.html").write_text(f"<!doctype html>{wide}<script>nowhere()</script>", encoding="utf-8")
    found = "\n".join(browsed(folder, ["page.html"], tmp_path / "profile"))
    for fault in (
        "at 390: 5",
        "no picture",
        "not there: 404 /gone.png",
        "nowhere is not defined",
        "asks another host",
    ):
        assert fault in found, found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_link_of_the_whole_site_leads_nowhere(tmp_path):
    needed("zensical")
    needed("pdoc")
    site = build(tmp_path / "site")
    assert (site / "api" / "spiky_rl" / "neurons" / "lif.html").is_file()
    page = site / "start.html"
    page.write_text(page.read_text(encoding="utf-8") + '<a href="agents.html#nowhere">', encoding="utf-8")
    specification = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        pages = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(pages)
    finally:
        sys.path.remove(str(ROOT / "docs"))
    assert list(pages.find_broken_links(site)) == ["start.html: agents.html#nowhere"]
