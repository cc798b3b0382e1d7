"""The site: README and guides stand before the API, pictures show, and no link leads nowhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_sites_first_page_is_the_readme_and_no_link_of_its_texts_leads_nowhere(tmp_path):
    pytest.importorskip("pdoc", reason="the dev extra is not installed")
    subprocess.run(
        [sys.executable, "docs/pages.py", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    first = (tmp_path / "index.html").read_text(encoding="utf-8")
    for words in ("Spiking policies for", "lif_reservoir_ppo", 'src="docs/ant.gif"', 'href="spiky_rl.html"'):
        assert words in first, words
    guides = sorted((tmp_path / "docs").glob("*.html"))
    assert {p.stem for p in guides} == {p.stem for p in (ROOT / "docs").glob("*.md")}
    for page in (tmp_path / "index.html", *guides):
        for link in re.findall(r'(?:href|src)="([^"$]+)"', page.read_text(encoding="utf-8")):
            file, _, anchor = link.partition("#")
            if re.match(r"https?:|data:", link):
                continue
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor and target.suffix == ".html":
                assert f'id="{anchor}"' in target.read_text(encoding="utf-8"), f"{page.name}: {link}"
