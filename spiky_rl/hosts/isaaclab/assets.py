"""Where Isaac Lab finds its robots: NVIDIA's asset server, the user's own folder, or look-alikes derived from Newton's wheel.

The look-alikes need no network. Their masses and joints are Newton's, so their scores are no Isaac Lab baselines.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from spiky_rl.files import cache_folder
from spiky_rl.registry import UserError

logger = logging.getLogger(__name__)

MODES = ("auto", "local", "nucleus")
LOCAL_TASKS = ("Isaac-Cartpole", "Isaac-Ant", "Isaac-Humanoid")
"""Task families that the local assets serve, with their ``-Direct`` twins."""

LAYOUT = 2
"""Counts up whenever the derived files change, so that an older cache is left alone."""
ROOT = "ISAACSIM_ASSET_ROOT"
"""The environment variable that Isaac Lab reads once, at import."""
REGION = "ISAACSIM_ASSET_REGION_PROFILE"
"""Isaac Lab's own choice among its servers: whoever sets it means them."""
PATIENCE = 3.0
"""Seconds that the asset server has for its answer."""

GROUND = "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
CARTPOLE = "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
ANT = "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd"
HUMANOID = "Isaac/Robots/IsaacSim/Humanoid/humanoid_instanceable.usd"

HUMANOID_JOINTS = {
    "abdomen_x": "pelvis",
    "left_elbow": "left_lower_arm",
    "right_elbow": "right_lower_arm",
    "left_knee": "left_shin",
    "right_knee": "right_shin",
}
"""Newton's name of a joint -> the name that Isaac Lab's configuration asks for."""

PAINT = (
    (r"foot|ankle|hand|shin|lower_arm|slider", (0.015, 0.025, 0.05)),
    (r"aux|leg|thigh|arm|pole", (0.03, 0.13, 0.36)),
    (r"", (0.85, 0.16, 0.02)),
)
"""Colours of the robots' shapes, linear red green blue: the first pattern that a shape's path holds."""

GROUND_PLANE = """#usda 1.0
(
    defaultPrim = "ground"
    metersPerUnit = 1
    upAxis = "Z"
)

def Xform "ground"
{
    def Plane "plane" (prepend apiSchemas = ["PhysicsCollisionAPI"])
    {
        uniform token axis = "Z"
    }
}
"""


class AssetError(UserError):
    """The robots of a task cannot be had; the message says what to do."""


def configure_assets(mode: str) -> str:
    """Choose where Isaac Lab finds its assets and say so in one line; call it before isaaclab is imported.

    A user's own ``ISAACSIM_ASSET_ROOT`` wins over every mode. ``auto`` is ``nucleus`` where that server answers within
    PATIENCE seconds, else ``local``. Raises AssetError for another mode and where the choice cannot be met.
    """
    if mode not in MODES:
        raise AssetError(f"assets: {mode!r} is not allowed; choose from {', '.join(MODES)}")
    root = os.environ.get(ROOT, "")
    if root and not is_derived(root):
        if "://" not in root and not Path(root).is_dir():
            raise AssetError(f"{ROOT}={root} is no folder; correct it, or unset it to use other assets")
        return f"user: {root}"
    if mode != "local" and os.environ.get(REGION):
        os.environ.pop(ROOT, None)
        return f"nucleus (region {os.environ[REGION]})"
    if mode == "nucleus" or (mode == "auto" and answers(server())):
        os.environ.pop(ROOT, None)
        require_unread(server())
        logger.info("Isaac Lab fetches the robots and the ground from %s", server())
        return f"nucleus ({server()})"
    derived = local_asset_root()
    require_unread(str(derived))
    os.environ[ROOT] = str(derived)
    return f"local (derived from Newton {newton_version()})"


def local_asset_root() -> Path:
    """The folder of the look-alikes, built on first use; several processes may build it at once."""
    root = cache_folder() / f"isaaclab-assets-newton-{newton_version()}-layout-{LAYOUT}"
    if root.is_dir():
        return root
    logger.info("deriving robots and ground from Newton %s in %s", newton_version(), root)
    root.parent.mkdir(parents=True, exist_ok=True)
    build = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        derive(newton_folder(), build)
        build.chmod(0o755)
        os.replace(build, root)
    except OSError:
        if not root.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return root


def derive(source: Path, root: Path) -> None:
    """Write Isaac Lab's four files below ``root`` from Newton's example assets in ``source``."""
    from pxr import Sdf

    for target in (GROUND, CARTPOLE, ANT, HUMANOID):
        (root / target).parent.mkdir(parents=True)
    (root / GROUND).write_text(GROUND_PLANE)

    for name, target in (("cartpole_single_pendulum", CARTPOLE), ("ant", ANT), ("humanoid", HUMANOID)):
        layer: Any = Sdf.Layer.OpenAsAnonymous(str(source / f"{name}.usda"))
        if target == CARTPOLE:
            layer.defaultPrim = "cartpole"
        if target == HUMANOID:
            rename_joints(layer, HUMANOID_JOINTS)
        paint(layer)
        layer.Export(str(root / target))


def rename_joints(layer: Any, names: dict[str, str]) -> None:
    """Rename the joints of a ``Sdf.Layer``. Raises AssetError for one that the layer lacks."""
    from pxr import Sdf

    joints = {prim.name: prim.path for prim in prims(layer) if prim.typeName.endswith("Joint")}
    edits = Sdf.BatchNamespaceEdit()
    for old, new in names.items():
        if old not in joints:
            raise AssetError(
                f"Newton {newton_version()} has no humanoid joint {old}: another version is needed"
            )
        edits.Add(Sdf.NamespaceEdit.Rename(joints[old], new))
    if not layer.Apply(edits):
        raise AssetError(f"Newton's humanoid joints cannot be renamed: {', '.join(names)}")


def paint(layer: Any) -> None:
    """Colour the shapes of a ``Sdf.Layer`` by PAINT, for Newton's assets have no materials."""
    from pxr import Sdf

    for prim in prims(layer):
        if prim.typeName in ("Capsule", "Cube", "Sphere"):
            colour = next(colour for pattern, colour in PAINT if re.search(pattern, str(prim.path)))
            attribute: Any = Sdf.AttributeSpec(prim, "primvars:displayColor", Sdf.ValueTypeNames.Color3fArray)
            attribute.default = [colour]


def prims(layer: Any) -> list[Any]:
    """Every prim of a ``Sdf.Layer``."""
    paths = []
    layer.Traverse("/", paths.append)
    return [layer.GetPrimAtPath(path) for path in paths if path.IsPrimPath()]


def missing_asset(error: BaseException) -> str | None:
    """The remedy for Isaac Lab's error about an asset it cannot find, or None for any other error."""
    if not isinstance(error, FileNotFoundError) or ".usd" not in str(error):
        return None
    if is_derived(os.environ.get(ROOT, "")):
        remedy = f"the local assets serve {', '.join(LOCAL_TASKS)} only; use the asset server with --assets nucleus"
    else:
        remedy = f"is the asset server reachable? {', '.join(LOCAL_TASKS)} also run with --assets local"
    return f"{error}: {remedy}, or set {ROOT} to a folder that holds NVIDIA's asset pack"


def is_derived(root: str) -> bool:
    """Whether ``root`` is one of our folders: a parent process may have handed it down."""
    return bool(root) and Path(root).name.startswith("isaaclab-assets-newton-")


def require_unread(root: str) -> None:
    """Raise AssetError where Isaac Lab was imported with another root than ``root``."""
    read = sys.modules.get("isaaclab.utils.assets")
    if read is not None and read.NUCLEUS_ASSET_ROOT_DIR != root:
        was = read.NUCLEUS_ASSET_ROOT_DIR
        raise AssetError(f"Isaac Lab already reads from {was}; call configure_assets before its import")


def server() -> str:
    """The asset server that Isaac Lab uses by itself, read from its settings without importing it."""
    settings = package_folder("isaaclab") / "apps/isaaclab.python.kit"
    pattern = r'^persistent\.isaac\.asset_root\.default\s*=\s*"(.+)"'
    found = re.search(pattern, settings.read_text(), re.MULTILINE)
    if found is None:
        raise AssetError(f"Isaac Lab's settings name no asset server; set {ROOT}, or use --assets local")
    return found[1]


def answers(address: str) -> bool:
    """Whether the server hands out the ground plane, asked once. Logs the answer."""
    replies = []
    # A thread, for the look-up of the name knows no time limit.
    threading.Thread(target=lambda: replies.append(ask(f"{address}/{GROUND}")), daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while not replies and time.monotonic() < deadline:
        time.sleep(0.02)
    reply = replies[0] if replies else f"no answer within {PATIENCE:g} s"
    said = f"does not answer ({reply})" if reply else "answers"
    logger.info("Isaac Lab's asset server %s: %s", said, address)
    return not reply


def ask(address: str) -> str:
    """Empty where ``address`` can be fetched, else the reason why not."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            return ""
    except OSError as error:
        return str(error)


def newton_version() -> str:
    try:
        return importlib.metadata.version("newton")
    except importlib.metadata.PackageNotFoundError as error:
        raise AssetError('Newton is not installed: pip install "spiky-rl[isaaclab]"') from error


def newton_folder() -> Path:
    folder = package_folder("newton") / "examples/assets"
    if not folder.is_dir():
        raise AssetError(
            f"Newton {newton_version()} lacks its example assets: pip install --force-reinstall newton"
        )
    return folder


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise AssetError(f'{name} is not installed: pip install "spiky-rl[isaaclab]"')
    return Path(spec.origin).parent
