"""Source of Isaac Lab's robots: NVIDIA's asset server, the user's own folder, or local assets derived from Newton's wheel.

Local assets need no network. They follow the MJCF models in Newton's wheel, not the asset server's files, so their scores are
not comparable with Isaac Lab's baselines.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from spiky_rl.config.errors import require_module
from spiky_rl.config.files import NoHomeError, cache_folder
from spiky_rl.hosts.isaaclab.local_assets import (
    FILE_VERSION,
    GROUND,
    AssetError,
    build_assets,
    get_newton_version,
)

logger = logging.getLogger(__name__)

MODES = ("auto", "local", "nucleus")
LOCAL_TASKS = ("Isaac-Cartpole", "Isaac-Ant", "Isaac-Humanoid", "Spiky-Velocity-Flat-Go1")
"""Task families with local assets, including their ``-Direct`` variants."""

ROOT = "ISAACSIM_ASSET_ROOT"
"""Environment variable of the asset root, which Isaac Lab reads once, at import."""
REGION = "ISAACSIM_ASSET_REGION_PROFILE"
"""Environment variable that selects one of Isaac Lab's asset servers."""
USER_PACK = f"or set {ROOT} to a folder that holds NVIDIA's asset pack"
NEWTON_REPOSITORY = "https://github.com/newton-physics/newton-assets"
NEWTON_ASSETS = "https://raw.githubusercontent.com/newton-physics/newton-assets/main"
"""Address of Newton's own robots in Isaac Lab, unless NEWTON_ASSET_DIR is set."""
TIMEOUT_S = 3.0
"""Maximum seconds for an answer of the asset server."""


def configure_assets(mode: str) -> str:
    """Set Isaac Lab's asset source and return its description in one line; call it before isaaclab is imported.

    A user's own ``ISAACSIM_ASSET_ROOT`` overrides every ``mode``. ``auto`` means ``nucleus`` if the server answers within
    TIMEOUT_S seconds, else ``local``. Raises AssetError for an unknown mode or an unavailable source.
    """
    if mode not in MODES:
        raise AssetError(f"assets: {mode!r} is not allowed; choose from {', '.join(MODES)}")
    if root := _get_user_root():
        return f"user: {root}"
    if mode != "local" and os.environ.get(REGION):
        os.environ.pop(ROOT, None)
        return f"nucleus (region {os.environ[REGION]})"
    if mode == "nucleus" or (mode == "auto" and is_reachable(get_asset_server())):
        os.environ.pop(ROOT, None)
        require_not_imported(get_asset_server())
        logger.info("Isaac Lab fetches the robots and the ground from %s", get_asset_server())
        return f"nucleus ({get_asset_server()})"
    derived = get_local_asset_root()
    require_not_imported(str(derived))
    os.environ[ROOT] = str(derived)
    return f"local (look-alikes {FILE_VERSION}, derived from Newton {get_newton_version()})"


def _get_user_root() -> str:
    """Return the user's own asset root; empty if there is none. Raises AssetError if it is no folder."""
    root = os.environ.get(ROOT, "")
    if is_local_root(root):
        return ""
    if root and "://" not in root and not Path(root).is_dir():
        raise AssetError(f"{ROOT}={root} is no folder; correct it, or unset it to use other assets")
    return root


def get_local_asset_root() -> Path:
    """Return the folder of the local assets, built on first use. Raises AssetError."""

    def build(folder: Path) -> None:
        logger.info("deriving robots and ground from Newton %s in the cache", get_newton_version())
        build_assets(get_newton_folder(), folder)

    return make_cached_folder(f"isaaclab-assets-newton-{get_newton_version()}-layout-{FILE_VERSION}", build)


@contextlib.contextmanager
def explain_write_errors() -> Iterator[None]:
    """Raise AssetError with a remedy if the block cannot write to the cache."""
    try:
        yield
    except OSError as error:
        place = "" if error.filename is None else f" to {error.filename!r}"
        raise AssetError(
            f"cannot write robots{place}: {error.strerror}; set SPIKY_RL_CACHE to a writable folder"
        ) from None
    except NoHomeError as error:
        raise AssetError(f"cannot write robots: {error}") from None


def make_cached_folder(name: str, build_content: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` in the cache, built atomically on first use; several processes may build it at once.

    ``build_content`` writes the content into a given folder. Raises AssetError if the folder cannot be written.
    """
    with explain_write_errors():
        folder = cache_folder() / name
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            build_content(build)
            build.chmod(0o755)
            os.replace(build, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(build, ignore_errors=True)
    return folder


def explain_missing_asset(error: BaseException) -> str | None:
    """Return the location of the missing file in an ``error`` of Isaac Lab and a remedy, or None for any other error."""
    path_match = re.search(r"(\w+://|/|[A-Za-z]:[\\/])\S+\.\w+", str(error))
    if not isinstance(error, FileNotFoundError) or path_match is None:
        return None
    location, local_tasks, own_root = path_match[0], ", ".join(LOCAL_TASKS), os.environ.get(ROOT, "")
    loaded = sys.modules.get("isaaclab.utils.assets")
    root = own_root or (loaded.NUCLEUS_ASSET_ROOT_DIR if loaded is not None else get_asset_server())
    name = location.removeprefix(root).removeprefix(NEWTON_ASSETS).lstrip("/\\")
    if location.startswith(NEWTON_ASSETS):
        return (
            f"{name} lies in {NEWTON_REPOSITORY}, whatever --assets says, and cannot be fetched from there: "
            f"set NEWTON_ASSET_DIR to a checkout of it"
        )
    if not location.startswith(root):
        return f"{location} is needed, and no source of --assets has it; make it readable at this path"
    if is_local_root(root):
        return f"{name} lies on the asset server, and the local assets serve {local_tasks}: use --assets nucleus, {USER_PACK}"
    if own_root:
        return f"{location}: missing below {ROOT}={own_root}; correct it, or unset it"
    return (
        f"{location}: is the asset server reachable? {local_tasks} also run with --assets local; {USER_PACK}"
    )


def is_local_root(root: str) -> bool:
    """Return whether ``root`` is one of our folders, possibly set by a parent process."""
    return bool(root) and Path(root).name.startswith("isaaclab-assets-newton-")


def require_not_imported(root: str) -> None:
    """Raise AssetError if Isaac Lab was imported with another asset root than ``root``."""
    loaded = sys.modules.get("isaaclab.utils.assets")
    if loaded is not None and loaded.NUCLEUS_ASSET_ROOT_DIR != root:
        raise AssetError(
            f"Isaac Lab already reads from {loaded.NUCLEUS_ASSET_ROOT_DIR}; call configure_assets before its import"
        )


def get_asset_server() -> str:
    """Return Isaac Lab's default asset server, read from its settings without importing it."""
    settings = require_module("isaaclab", "isaaclab").parent / "apps/isaaclab.python.kit"
    pattern = r'^persistent\.isaac\.asset_root\.default\s*=\s*"(.+)"'
    server = re.search(pattern, settings.read_text(), re.MULTILINE)
    if server is None:
        raise AssetError(f"Isaac Lab's settings name no asset server; set {ROOT}, or use --assets local")
    return server[1]


@functools.cache
def is_reachable(address: str) -> bool:
    """Return whether the server at ``address`` serves the ground plane; cached and logged."""
    replies = []
    # in a thread, because the DNS look-up has no timeout
    probe = threading.Thread(target=lambda: replies.append(probe_url(f"{address}/{GROUND}")), daemon=True)
    probe.start()
    probe.join(TIMEOUT_S)
    reply = replies[0] if replies else f"no answer within {TIMEOUT_S:g} s"
    status = f"does not answer ({reply})" if reply else "answers"
    logger.debug("Isaac Lab's asset server %s: %s", status, address)
    return not reply


def probe_url(address: str) -> str:
    """Return an empty string if ``address`` can be fetched, else the reason why not."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT_S):
            return ""
    except (OSError, http.client.HTTPException) as error:  # the latter if it is no web server that answers
        return str(error) or type(error).__name__


def get_newton_folder() -> Path:
    """Return the folder of the installed Newton's example assets. Raises UserError if it is missing."""
    folder = require_module("newton", "isaaclab").parent / "examples/assets"
    if not folder.is_dir():
        raise AssetError(
            f"Newton {get_newton_version()} lacks its example assets: pip install --force-reinstall newton"
        )
    return folder
