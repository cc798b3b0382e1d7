"""newton_gl: a window on this machine's screen, with the spikes in a window of their own within it."""

from __future__ import annotations

from typing import override

import numpy as np
from isaaclab_visualizers.newton.newton_visualizer import NewtonGLVisualizer

from spiky_rl.hosts.isaaclab.live.base import TITLE, LiveVisualizer


class NewtonGLView(LiveVisualizer, NewtonGLVisualizer):
    """Isaac Lab's OpenGL window, with spikes."""

    @override
    def show(self, picture: np.ndarray) -> None:
        assert self._viewer is not None
        self._viewer.log_image(TITLE, picture)
