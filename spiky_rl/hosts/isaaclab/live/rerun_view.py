"""Live view in rerun, in a browser or its own viewer, with the spikes beside the robot and Isaac Lab's curves."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any, override

import numpy as np
from isaaclab_visualizers.rerun.rerun_visualizer import RerunVisualizer
from PIL import Image

from spiky_rl.hosts.isaaclab.live.base import TITLE, LiveVisualizer
from spiky_rl.hosts.isaaclab.live.rerun_server import RerunServer
from spiky_rl.hosts.isaaclab.live.setup import LOCAL_ADDRESS

if TYPE_CHECKING:
    from isaaclab.scene_data import SceneDataProvider
    from isaaclab_visualizers.rerun import RerunVisualizerCfg

rerun: Any = importlib.import_module("rerun")
blueprint: Any = importlib.import_module("rerun.blueprint")

PATH = "spikes"
"""Path of the picture among rerun's entities."""


class RerunView(LiveVisualizer, RerunVisualizer):
    """Isaac Lab's rerun visualizer with spikes."""

    def __init__(self, cfg: RerunVisualizerCfg) -> None:
        super().__init__(cfg)
        self.plain: Any = None
        """Isaac Lab's own layout of the page."""
        self.server: RerunServer | None = None

    @override
    def initialize(self, scene_data_provider: SceneDataProvider) -> None:
        """Start our server first, so that Isaac Lab starts none."""
        if self.server is None:
            self.server = RerunServer(LOCAL_ADDRESS, self.cfg.grpc_port, self.cfg.web_port)
        super().initialize(scene_data_provider)

    @override
    def close(self) -> None:
        """End the server as well."""
        super().close()
        if self.server is not None:
            self.server.close()
            self.server = None

    @override
    def _apply_camera_pose(self, pose: tuple[tuple[float, float, float], tuple[float, float, float]]) -> None:
        super()._apply_camera_pose(pose)
        viewer: Any = self._viewer
        if self.plain is None:
            # Isaac Lab defines its layout in this method, and calls it again with the first curve
            # pylint: disable=protected-access
            self.plain, viewer._get_blueprint = viewer._get_blueprint, self.layout
        rerun.send_blueprint(self.layout())

    def layout(self) -> Any:
        """Return Isaac Lab's layout with the spikes at its side."""
        plain = self.plain().root_container
        for view in plain.contents:
            if isinstance(view, blueprint.Spatial3DView):  # a 2D picture is an error in a 3D view
                view.contents = ["$origin/**", f"- /{PATH}/**"]
        spikes = blueprint.Spatial2DView(name=TITLE, origin=f"/{PATH}")
        sides = blueprint.Horizontal(plain, spikes, column_shares=[2, 1])
        return blueprint.Blueprint(sides, blueprint.TimePanel(state="hidden"), collapse_panels=True)

    @override
    def show(self, picture: np.ndarray) -> None:
        packed = io.BytesIO()
        Image.fromarray(picture).convert("L").save(packed, "png")  # grey dots suit PNG, not JPEG
        rerun.log(PATH, rerun.EncodedImage(contents=packed.getvalue(), media_type="image/png"))
