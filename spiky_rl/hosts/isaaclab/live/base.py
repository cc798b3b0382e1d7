"""Base class of our live views, which extend Isaac Lab's visualizers of the same name."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, override

import numpy as np
from isaaclab.sim import SimulationContext
from isaaclab.visualizers.base_visualizer import BaseVisualizer

if TYPE_CHECKING:
    from isaaclab.visualizers import VisualizerCfg

log = logging.getLogger(__name__)

FRAME_INTERVAL_S = 0.04
"""Minimum seconds between frames."""
PICTURE_INTERVAL_S = 0.2
"""Minimum seconds between pictures."""
SHARE = 0.2
"""Maximum share of a run's time spent on frames."""
TITLE = "Spikes of environment 0"


class LiveVisualizer(BaseVisualizer):
    """Mixin that draws at wall-clock intervals instead of every control step, and shows a picture beside the robot.

    It comes before one of Isaac Lab's visualizers in the bases of a class.
    """

    def __init__(self, cfg: VisualizerCfg) -> None:
        super().__init__(cfg)
        self.picture: Callable[[], np.ndarray] | None = None
        """Draws the picture beside the robot, uint8 [height, width, 3]; None for no picture."""
        self.target: Callable[[], np.ndarray] | None = None
        """Returns the point that the camera follows, [3] in m; None for a camera that stays."""
        self.waited, self.due, self.picture_due = 0.0, 0.0, 0.0

    @property
    @override
    def physics_backend(self) -> str | None:
        """Displayed name of the physics backend. Isaac Lab itself would show native MuJoCo as MuJoCo-Warp, whose manager it extends."""
        context = SimulationContext.instance()
        uses_native_solver = getattr(context and context.physics_manager, "uses_native_solver", None)
        if uses_native_solver is not None and uses_native_solver():
            return "MuJoCo"
        return super().physics_backend

    @override
    def step(self, dt: float) -> None:
        """Draw a frame if one is due; ``dt``: seconds since the last call."""
        begun = time.monotonic()
        self.waited += dt
        if begun < self.due:
            if dt == 0.0:  # paused: Isaac Lab calls again at once
                time.sleep(self.due - begun)
            return
        super().step(self.waited)  # type: ignore[safe-super]
        self.waited = 0.0
        if self.target is not None and self.is_watched():
            self.follow(self.target())
        if self.picture is not None and begun >= self.picture_due and self.is_watched():
            self.show(self.picture())
            self.picture_due = begun + PICTURE_INTERVAL_S
        spent = time.monotonic() - begun
        self.due = begun + max(FRAME_INTERVAL_S, spent / SHARE)

    def is_watched(self) -> bool:
        """Return whether anybody watches the picture."""
        return True

    def follow(self, point: np.ndarray) -> None:
        """Move the camera with ``point``, [3] in m; views without an own camera per viewer stay."""

    @abstractmethod
    def show(self, picture: np.ndarray) -> None:
        """Replace the shown picture by ``picture``, uint8 [height, width, 3]."""

    def _log_viewer_url(self, visualizer_name: str, viewer_url: str) -> None:
        log.info("live view: %s", viewer_url)
