# pyright: reportMissingImports=false
"""mjlab's runner that writes an ONNX file beside every checkpoint, as its runners of single tasks do."""

from __future__ import annotations

from typing import Any, override

from mjlab.rl import MjlabOnPolicyRunner


class ExportingRunner(MjlabOnPolicyRunner):
    """`MjlabOnPolicyRunner` whose checkpoints come with the policy as ONNX, named after the run folder."""

    @override
    def save(self, path: str, infos: Any = None) -> None:
        super().save(path, infos)
        folder, filename, _ = self._get_export_paths(path)
        self.export_policy_to_onnx(str(folder), filename)
