"""Rendering of a simulated robot without a display, with Newton's OpenGL viewer on EGL (Mesa without a GPU)."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from spiky_rl.config.errors import format_install_command
from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab.workflows import Env

if TYPE_CHECKING:
    from isaaclab.assets import Articulation

WIDTH, HEIGHT = 640, 480
"""Size of a picture in pixels."""
SMOOTHING = 0.85
"""Weight of the camera's previous target in each frame."""
TELEPORT_DISTANCE = 0.5
"""Distance in m of the robot from the camera's previous target beyond which the camera jumps, because a new episode has begun."""
SIDE_VIEW = (0.5, -0.8, 0.33)
"""Direction from a robot with a free base to the camera."""
FRONT_VIEW = (0.92, -0.3, 0.26)
"""Direction from a robot with a fixed base to the camera."""

LIBRARIES = ("libEGL.so.1", "libGL.so.1")
PACKAGES = ("pyglet", "imgui_bundle", "PIL")
REMEDY = (
    f"apt-get install libegl1 libgl1 libgl1-mesa-dri libegl-mesa0, and {format_install_command('.[video]')}"
)


class GraphicsError(UserError):
    """Error about missing graphics; the message names the packages to install."""


def setup_graphics() -> None:
    """Prepare this process for rendering without a display. Raises GraphicsError with the packages to install."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(library)
    if missing:
        raise GraphicsError(f"video: {', '.join(missing)} missing: {REMEDY}")
    import pyglet

    pyglet.options["headless"] = True  # read when newton.viewer is imported


def get_body_positions(robot: Articulation) -> np.ndarray:
    """Return the positions of the bodies of environment 0's ``robot``, [bodies, 3] in m."""
    return robot.data.body_link_pos_w.torch[0].cpu().numpy()


def compute_viewpoint(robot: Articulation) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of environment 0's ``robot``, and the offset of a camera that sees all of it, [3] each in m."""
    positions = get_body_positions(robot)
    middle = positions.mean(0)
    direction = np.array(FRONT_VIEW if robot.is_fixed_base else SIDE_VIEW)
    reach = np.linalg.norm(positions - middle, axis=-1).max()
    return middle, direction / np.linalg.norm(direction) * (2.6 + 0.5 * reach)


def halve_picture(picture: np.ndarray) -> np.ndarray:
    """Return the mean of every two by two pixels, rounded down: uint8 [2 H, 2 W, 3] -> [H, W, 3]."""
    fine = picture.reshape(picture.shape[0] // 2, 2, picture.shape[1] // 2, 2, 3)
    rows = fine[:, 0].astype(np.uint16) + fine[:, 1]  # integers: a tenth of the time of a mean of floats
    return ((rows[:, :, 0] + rows[:, :, 1]) >> 2).astype(np.uint8)


class IsaacLabCamera:
    """Camera that follows the robot of environment 0; needs Newton physics. Raises GraphicsError if rendering is not available."""

    def __init__(self, env: Any) -> None:
        setup_graphics()
        self.env: Env = env.unwrapped
        if "newton" not in self.env.sim.physics_manager.__name__.lower():
            raise GraphicsError(
                f"video: not available with {self.env.sim.physics_manager.__name__}; use physics=newton_mjwarp"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # Newton prints that there is no antialiasing
            try:
                from isaaclab_newton.physics import NewtonManager
                from newton.viewer import ViewerGL

                # twice the size, to be halved, because Mesa's EGL has no antialiasing
                self.viewer = ViewerGL(2 * WIDTH, 2 * HEIGHT, headless=True)
            except Exception as error:  # pyglet, OpenGL and the driver each raise their own
                raise GraphicsError(f"video: OpenGL does not start ({error}): {REMEDY}") from error
            self.newton = NewtonManager
            self.viewer.set_model(NewtonManager.get_model())
            self.viewer.set_visible_worlds([0])
        self.viewer.show_collision = not self.has_visuals()
        renderer = self.viewer.renderer
        renderer.sky_upper, renderer.sky_lower = (0.36, 0.56, 0.82), (0.80, 0.87, 0.93)
        self.robot = next(iter(self.env.scene.articulations.values()))
        self.target, self.offset = compute_viewpoint(self.robot)

    def has_visuals(self) -> bool:
        """Return whether the robot of environment 0 has visual shapes besides its collision shapes."""
        from newton import ShapeFlags

        model = self.newton.get_model()
        flags = model.shape_flags.numpy()[model.shape_world.numpy() == 0]  # type: ignore[union-attr]
        return bool((flags & int(ShapeFlags.VISIBLE)).any())

    def render(self) -> np.ndarray:
        """Return a picture of the robot, uint8 [HEIGHT, WIDTH, 3]."""
        from pyglet.math import Vec3

        self.env.sim.forward()  # updates the bodies of environments that were just reset
        centre = get_body_positions(self.robot).mean(0)
        jumped = np.linalg.norm(centre - self.target) > TELEPORT_DISTANCE
        self.target = centre if jumped else SMOOTHING * self.target + (1 - SMOOTHING) * centre
        self.viewer.camera.pos = Vec3(*(self.target + self.offset).tolist())
        self.viewer.camera.look_at(self.target.tolist())
        self.viewer.begin_frame(0.0)
        self.viewer.log_state(self.newton.get_state_0())
        self.viewer.end_frame()
        return halve_picture(self.viewer.get_frame().numpy())

    def close(self) -> None:
        self.viewer.close()
