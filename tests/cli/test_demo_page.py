"""The demonstration in a browser: an ant that walks, and its spikes."""

import re
import signal

import pytest

from tests.cli import browser
from tests.processes import PATIENCE, Command

for module in ("isaaclab", "viser", "websockets"):
    pytest.importorskip(module, reason=f"{module} is not installed: make setup")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def scene(page):
    """The page without the panel at its right, [rows, columns, 3]."""
    return page.screenshot()[:, :1000].astype(int)


def test_the_demonstration_shows_an_ant_that_walks_and_its_spikes(tmp_path):
    if browser.installed() is None:
        pytest.skip("no Chromium is installed, which would open the page")
    line = ["-m", "spiky_rl.cli", "demo", "--view", "page", "--log_root", tmp_path / "logs"]
    with Command(*line) as demo:
        url = demo.until(lambda: re.search("live view: (.*)", demo.said()))[1]
        with browser.opened(url, tmp_path / "profile") as page:
            spikes = page.wait_for(f"{browser.SPIKES}?.src", PATIENCE)
            page.wait_for(f"{browser.SPIKES}?.src != {spikes!r}", PATIENCE)
            # red, green and blue of the floor are alike
            demo.until(lambda: (scene(page).max(-1) - scene(page).min(-1) > 60).sum() > 500)
            page.wait_for("document.body.innerText.includes('Physics: MuJoCo\\n')", PATIENCE)
            first = scene(page)
            demo.until(lambda: (abs(scene(page) - first).max(-1) > 40).sum() > 500)
        demo.send(signal.SIGINT)
        assert demo.finished().returncode in (0, 130), demo.said()
