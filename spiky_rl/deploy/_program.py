"""Error of a policy that an export target cannot express."""

from spiky_rl.config.registry import UserError


class ExportError(UserError):
    """Error: a target cannot express the policy."""
