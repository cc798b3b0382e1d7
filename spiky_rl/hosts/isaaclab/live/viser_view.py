"""Live view in viser, in a browser, with the spikes in the side bar."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, override

import numpy as np
from isaaclab_visualizers.viser.viser_visualizer import ViserVisualizer

from spiky_rl.hosts.isaaclab.live.base import TITLE, LiveVisualizer
from spiky_rl.hosts.isaaclab.live.origins import refuse_other_pages

if TYPE_CHECKING:
    import warp
    from isaaclab_visualizers.viser import ViserVisualizerCfg


class ViserView(LiveVisualizer, ViserVisualizer):
    """Isaac Lab's viser visualizer with spikes."""

    def __init__(self, cfg: ViserVisualizerCfg) -> None:
        super().__init__(cfg)
        self.server: Any = None
        self.image: Any = None

    @override
    def _create_viewer(self, record_to_viser: str | None, metadata: dict | None = None) -> None:
        # a browser opens connections that it does not use; each would be logged with a traceback
        logging.getLogger("websockets.server").addFilter(lambda record: record.levelno > logging.ERROR)
        with refuse_other_pages():
            super()._create_viewer(record_to_viser, metadata)
        viewer: Any = self._viewer
        if not hasattr(viewer, "_to_numpy"):
            # Isaac Lab 3.0.0 calls it for every ground plane, but Newton 1.6.1, which it requires, has removed it
            viewer._to_numpy = _to_numpy  # pylint: disable=protected-access

    @override
    def _setup_isaaclab_sidebar(self, server: Any) -> None:
        super()._setup_isaaclab_sidebar(server)
        self.server = server
        server.gui.configure_theme(control_width="large", show_share_button=False)
        # the port may differ from the requested one
        self._log_viewer_url("", f"http://localhost:{server.get_port()}")

    @override
    def is_watched(self) -> bool:
        """Return whether a browser has the page open."""
        return bool(self.server.get_clients())

    @override
    def follow(self, point: np.ndarray) -> None:
        """Move every viewer's camera so that it looks at ``point``, [3] in m, from its own direction and distance.

        The difference of eye and target is kept: it stays right even if a viewer's message still has an earlier place.
        """
        for client in self.server.get_clients().values():
            camera = client.camera
            if self._pending_camera_pose is None and camera.update_timestamp:
                offset = np.asarray(camera.position) - np.asarray(camera.look_at)
                with client.atomic():
                    camera.position, camera.look_at = point + offset, point

    @override
    def show(self, picture: np.ndarray) -> None:
        if self.image is None:
            self.image = self.server.gui.add_image(picture, label=TITLE, format="png", order=-1.0)
        else:
            self.image.image = picture


def _to_numpy(values: warp.array | np.ndarray | None) -> np.ndarray | None:
    """Return a Warp array as a NumPy array; None stays None."""
    return values if values is None or isinstance(values, np.ndarray) else values.numpy()
