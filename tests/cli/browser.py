"""A page in Chromium without a screen, by its own debugging protocol."""

import base64
import contextlib
import io
import itertools
import json
import re
import shutil
import subprocess
import time

import numpy as np

from spiky_rl.run.spike_raster import HEIGHT, WIDTH

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


SPIKES = (
    f"[...document.images].find(image => image.naturalWidth == {WIDTH} && image.naturalHeight == {HEIGHT})"
)
"""Script that gives the picture of the spikes on the page of a live view."""


def installed() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """An open page."""

    def __init__(self, socket) -> None:
        self.socket, self.numbers = socket, itertools.count(1)

    def call(self, method: str, **params) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            pass
        return answer["result"]

    def evaluate(self, script: str):
        """What a script gives, None for nothing."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str, seconds: float):
        """What a script gives once it gives something true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"after {seconds} s there is no {script}"
            time.sleep(1.0)
        return value

    def screenshot(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        from PIL import Image

        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@contextlib.contextmanager
def opened(url: str, profile):
    """The page at ``url``; the browser keeps its files in ``profile``."""
    from websockets.sync.client import connect

    line = [installed(), *FLAGS, "--window-size=1400,900", "--remote-debugging-port=0"]
    with subprocess.Popen(
        [*line, f"--user-data-dir={profile}", url],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            port = next(
                found[1] for said in process.stderr if (found := re.search(r"ws://[^:]+:(\d+)/", said))
            )
            yield Page(connect(address_of_page(port, url), max_size=None, ping_interval=None))
        finally:
            process.terminate()


def address_of_page(port: str, url: str) -> str:
    from urllib.request import urlopen

    for _ in range(60):
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            for tab in json.load(answer):
                if tab["type"] == "page" and tab["url"].startswith(url):
                    return tab["webSocketDebuggerUrl"]
        time.sleep(1.0)
    raise AssertionError(f"the browser has not opened {url}")
