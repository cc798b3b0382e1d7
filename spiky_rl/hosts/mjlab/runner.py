# pyright: reportMissingImports=false
"""mjlab's runner that writes an ONNX file beside every checkpoint, as its runners of single tasks do."""

from __future__ import annotations

from typing import Any

from mjlab.rl import MjlabOnPolicyRunner


class ExportingRunner(MjlabOnPolicyRunner):
    """`MjlabOnPolicyRunner` whose checkpoints come with the policy as ONNX, named after the run folder."""

    def save(self, path: str, infos: Any = None) -> None:
        """Write a checkpoint to ``path`` and the policy beside it; ``infos``: further content of the checkpoint."""
        super().save(path, infos)
        folder, filename, _ = self._get_export_paths(path)
        self.export_policy_to_onnx(str(folder), filename)
