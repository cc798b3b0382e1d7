"""Live view in an OpenGL window on this machine, with the spikes in an inner window."""

from __future__ import annotations

from typing import override

import numpy as np
from isaaclab_visualizers.newton.newton_visualizer import NewtonGLVisualizer

from spiky_rl.hosts.isaaclab.live.base import TITLE, LiveVisualizer


class NewtonGLView(LiveVisualizer, NewtonGLVisualizer):
    """Isaac Lab's OpenGL visualizer with spikes."""

    @override
    def show(self, picture: np.ndarray) -> None:
        assert self._viewer is not None
        self._viewer.log_image(TITLE, picture)
