"""A training that is watched: viser's page in a browser, rerun's recording, and an end as without them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from spiky_rl.run.spike_raster import HEIGHT, WIDTH
from tests.cli import browser

for module in ("isaaclab", "viser", "rerun"):
    pytest.importorskip(module, reason=f"{module} is not installed: the extras 'isaaclab' and 'live'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
WAIT = 600
"""Seconds, on a machine that has much else to do."""


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training on Isaac-Cartpole that two views show, until it is stopped."""
    folder = tmp_path_factory.mktemp("live")
    line = [sys.executable, str(ROOT / "scripts" / "train.py"), "--task", "cartpole", "--device", "cpu"]
    line += ["--assets", "local", "--num_envs", "4", "--max_iterations", "100000", "--log_root", str(folder)]
    said = folder / "stderr"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            [*line, "--viz", "viser,rerun"], env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        try:
            until(lambda: said.read_text().count("live view: ") == 2 or process.poll() is not None)
            assert process.poll() is None, said.read_text()[-2000:]
            until(lambda: list(folder.rglob("progress.json")))
            yield SimpleNamespace(urls=re.findall("live view: (.*)", said.read_text()), said=said)
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT) == 130, said.read_text()[-2000:]
        finally:
            process.kill()
    (result,) = folder.rglob("result.json")
    assert json.loads(result.read_text())["outcome"] == "stopped"
    assert "Error stepping visualizer" not in said.read_text()


def until(condition) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "too slow"
        time.sleep(1.0)


DARK = f"""(() => {{
    const image = {browser.SPIKES}, canvas = document.createElement("canvas");
    canvas.width = {WIDTH}; canvas.height = {HEIGHT};
    canvas.getContext("2d").drawImage(image, 0, 0);
    const values = canvas.getContext("2d").getImageData(0, 0, {WIDTH}, {HEIGHT}).data;
    return values.filter((value, i) => i % 4 == 0 && value < 100).length;
}})()"""


def test_visers_page_shows_the_robot_and_its_spikes_move(training, tmp_path):
    (url,) = [url for url in training.urls if "?" not in url]
    with urlopen(url) as page:
        assert page.status == 200 and b"<html" in page.read().lower()
    if browser.installed() is None:
        pytest.skip("no Chromium is installed, which would open the page")
    with browser.opened(url, tmp_path / "profile") as page:
        first = page.wait_for(f"{browser.SPIKES}?.src", WAIT)
        page.wait_for(f"{browser.SPIKES}?.src != {json.dumps(first)}", WAIT)
        assert page.evaluate("document.body.innerText").count("Spikes of environment 0") == 1
        assert WIDTH * HEIGHT / 200 < page.evaluate(DARK) < WIDTH * HEIGHT / 3
        for _ in range(60):  # what has come is drawn a while later without a GPU
            red, _, blue = page.screenshot().astype(int).transpose(2, 0, 1)[:, :, :1000]
            orange, azure = ((red - blue) > 80).sum(), ((blue - red) > 40).sum()
            if min(orange, azure) > 50:
                break
            time.sleep(2.0)
        assert min(orange, azure) > 50, "the cart is orange and its pole blue"


def test_a_recording_from_rerun_has_the_robot_and_its_spikes(training, tmp_path):
    (url,) = [url for url in training.urls if "?url=" in url]
    with urlopen(url) as page:
        assert page.status == 200
    server = url.partition("?url=")[2].replace("%2B", "+")
    recording, line = tmp_path / "live.rrd", [sys.executable, "-m", "rerun", "--port", "0"]
    with subprocess.Popen([*line, "--save", recording, server], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: recording.exists() and recording.stat().st_size > 500_000)
        finally:
            process.send_signal(signal.SIGINT)
    printed = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", recording],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    entities = re.findall(r"rows .* - (/\S+) - data columns: \[([^]]*)", printed)
    kinds = dict(entities)
    assert "EncodedImage:blob" in kinds["/spikes"]
    assert any(path.startswith("/model/shapes") and "InstancePoses3D" in kinds[path] for path in kinds)
    assert sum(path == "/spikes" for path, _ in entities) > 3, "pictures follow each other"
