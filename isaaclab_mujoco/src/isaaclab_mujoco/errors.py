"""Errors of native physics. Each message is one line and names a remedy."""

from __future__ import annotations


class PhysicsError(ValueError):
    """A physics backend that the task or the machine does not support."""


class CompileError(PhysicsError):
    """A missing C++ compiler, or one that fails."""


class UnsupportedModel(PhysicsError):
    """A model that MuJoCo's C library cannot step as MuJoCo-Warp does."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"physics=mujoco: {reason}; use physics=newton_mjwarp")
        self.reason = reason
